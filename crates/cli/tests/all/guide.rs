//! The commands of docs/guide/coming-from-sentence-transformers.md, run as they stand there.

use std::path::Path;

use hub::standin::StandIn;

use crate::{
    evaluators::serve_nano_beir,
    sandbox::{Ended, Sandbox, copy_folder, model},
};

const PAGE: &str = "docs/guide/coming-from-sentence-transformers.md";

/// The files of the guide's first page.
fn rows(people: &[&str]) -> String {
    const VERBS: [&str; 5] = ["eat", "drink", "read", "sing", "walk"];
    let mut text = "anchor,positive,negative\n".to_owned();
    for who in people {
        for does in VERBS {
            for other in VERBS.into_iter().filter(|other| *other != does) {
                text += &format!("a {who} is {does}ing,the {who} {does}s,the {who} {other}s\n");
            }
        }
    }
    text
}

#[test]
fn every_command_of_the_page_for_users_of_python_runs() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(PAGE);
    let page = fs_err::read_to_string(page).unwrap().replace("\\\n", " ");
    let lines: Vec<&str> = page
        .split("```console\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert!(lines.len() > 30, "{lines:?}");
    let sandbox = Sandbox::new();
    copy_folder(&model(), &sandbox.path("your-model"));
    let people = ["man", "woman", "boy", "girl", "teacher", "farmer"];
    sandbox.write("train.csv", rows(&people));
    sandbox.write("test.csv", rows(&["doctor", "child"]));
    let standin = StandIn::start().unwrap();
    serve_nano_beir(&standin);
    for line in lines {
        let mut command = sandbox.shell(line);
        command
            .env("HF_ENDPOINT", standin.endpoint())
            .env("HF_TOKEN", "hf_of_the_test")
            .env_remove("HF_HUB_OFFLINE");
        let ended = Ended::from(command.output().unwrap());
        let is_refused = line.contains("--bf16") && ended.stderr.contains("AVX512_BF16");
        assert!(ended.code == Some(0) || is_refused, "{line}: {ended:?}");
    }
    for made in [
        "sentences.npy",
        "mined.csv",
        "best/final",
        "soup/model.safetensors",
    ] {
        assert!(sandbox.path(made).exists(), "{made}");
    }
    for id in ["org/your-model", "org/pushed"] {
        assert!(
            standin
                .pushed(id)
                .unwrap()
                .contains_key("model.safetensors"),
            "{id}"
        );
    }
}
