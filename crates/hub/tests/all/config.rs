//! The environment, as Python's huggingface_hub reads it.

use std::{ffi::OsString, fs, path::PathBuf};

use hub::{
    config::{DEFAULT_ENDPOINT, HubConfig, Token},
    error::HubError,
};
use tempfile::TempDir;

fn read(variables: &[(&str, &str)]) -> Result<HubConfig, HubError> {
    HubConfig::from_lookup(&|name| {
        variables
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| OsString::from(value))
    })
}

fn cache_dir(variables: &[(&str, &str)]) -> PathBuf {
    read(variables).expect("a valid environment").cache_dir
}

fn token(variables: &[(&str, &str)]) -> Option<Token> {
    read(variables).expect("a valid environment").token
}

fn some_token(token: &str) -> Option<Token> {
    Token::parse("test", token).expect("a valid token")
}

#[test]
fn cache_goes_by_the_most_special_variable() {
    let mut variables = vec![("HOME", "/home/u")];
    assert_eq!(
        cache_dir(&variables),
        PathBuf::from("/home/u/.cache/huggingface/hub")
    );
    variables.push(("XDG_CACHE_HOME", "/xdg"));
    assert_eq!(cache_dir(&variables), PathBuf::from("/xdg/huggingface/hub"));
    variables.push(("HF_HOME", "~/hf"));
    assert_eq!(cache_dir(&variables), PathBuf::from("/home/u/hf/hub"));
    variables.push(("HUGGINGFACE_HUB_CACHE", "/old"));
    assert_eq!(cache_dir(&variables), PathBuf::from("/old"));
    variables.push(("HF_HUB_CACHE", "/new"));
    assert_eq!(cache_dir(&variables), PathBuf::from("/new"));
}

#[test]
fn an_empty_variable_is_unset() {
    let variables = [
        ("HOME", "/home/u"),
        ("HF_HOME", ""),
        ("HF_HUB_CACHE", ""),
        ("HF_ENDPOINT", ""),
    ];
    assert_eq!(
        cache_dir(&variables),
        PathBuf::from("/home/u/.cache/huggingface/hub")
    );
    assert_eq!(read(&variables).expect("valid").endpoint, DEFAULT_ENDPOINT);
}

#[test]
fn without_any_home_the_message_says_what_to_set() {
    let error = read(&[])
        .expect_err("there is no folder to default to")
        .to_string();
    assert!(error.contains("set HF_HOME"), "{error}");
}

#[test]
fn token_goes_by_variable_then_path_then_home() {
    let folder = TempDir::new().expect("a folder");
    let home = folder.path().to_str().expect("UTF-8");
    let other = folder.path().join("elsewhere");
    let other_path = other.to_str().expect("UTF-8");
    let mut variables = vec![("HF_HOME", home)];
    assert_eq!(token(&variables), None);
    fs::write(folder.path().join("token"), "hf_home\n").expect("written");
    assert_eq!(token(&variables), some_token("hf_home"));
    variables.push(("HF_TOKEN_PATH", other_path));
    assert_eq!(token(&variables), None, "the file named is the file read");
    fs::write(&other, "  hf_path \r\n").expect("written");
    assert_eq!(token(&variables), some_token("hf_path"));
    variables.push(("HF_TOKEN", "hf_env"));
    assert_eq!(token(&variables), some_token("hf_env"));
    variables.push(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"));
    assert_eq!(token(&variables), None);
}

#[test]
fn a_token_that_no_header_may_carry_is_refused_and_not_shown() {
    for bad in ["hf_a\r\nX-Evil: 1", "hf_ä", "hf a", "hf_\u{0}"] {
        let error = read(&[("HF_HOME", "/x"), ("HF_TOKEN", bad)]).expect_err(bad);
        let text = format!("{error} {error:?}");
        assert!(text.contains("HF_TOKEN"), "{text}");
        assert!(!text.contains(bad) && !text.contains("Evil"), "{text}");
    }
}

#[test]
fn debug_hides_the_token() {
    let config = read(&[("HF_HOME", "/x"), ("HF_TOKEN", "hf_secret")]).expect("valid");
    let text = format!("{config:?} {config:#?}");
    assert!(text.contains("Token(hidden)"), "{text}");
    assert!(!text.contains("hf_secret"), "{text}");
}

#[test]
fn switches_are_those_of_python() {
    let offline = |name, value| {
        read(&[("HF_HOME", "/x"), (name, value)])
            .expect("valid")
            .offline
    };
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        for on in ["1", "on", "ON", "yes", "True"] {
            assert!(offline(name, on), "{name}={on}");
        }
        for off in ["", "0", "off", "no", "false", "2"] {
            assert!(!offline(name, off), "{name}={off}");
        }
    }
}

#[test]
fn endpoint_loses_its_last_slash_and_must_be_http() {
    fn endpoint(value: &str) -> Result<String, HubError> {
        read(&[("HF_HOME", "/x"), ("HF_ENDPOINT", value)]).map(|config| config.endpoint)
    }
    let accepted = [
        "https://mirror.example",
        "https://h.example:8443/api/hf",
        "http://127.0.0.1:80",
    ];
    for good in accepted {
        assert_eq!(endpoint(good).expect(good), good);
        assert_eq!(endpoint(&format!("{good}/")).expect(good), good);
    }
    let refused = [
        "mirror.example",
        "ftp://mirror.example",
        "file:///etc",
        "https://",
        "https://u:p@mirror.example",
        "https://a b",
        "https://host:port",
        "https://host:99999",
        "https://ho\\st",
        "javascript:alert(1)",
    ];
    for bad in refused {
        let error = endpoint(bad).expect_err(bad).to_string();
        assert!(error.starts_with("HF_ENDPOINT: "), "{error}");
        assert!(!error.contains("u:p"), "{error}");
    }
}
