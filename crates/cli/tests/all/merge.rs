//! `sentune merge`: soups of models that are saved as models.

use std::ffi::OsStr;

use crate::sandbox::{Ended, Sandbox, copy_folder, model};

fn merge(sandbox: &Sandbox, flags: &[&str]) -> Ended {
    let model = model();
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"merge", &"--model", &model];
    arguments.extend(flags.iter().map(|flag| flag as &dyn AsRef<OsStr>));
    sandbox.run(&arguments)
}

/// The embedding of a text, as it is printed.
fn embedding(sandbox: &Sandbox, model: &dyn AsRef<OsStr>) -> String {
    sandbox.write("text.txt", "The dog runs.\n");
    sandbox
        .run(&[
            &"encode",
            &"--model",
            &model,
            &"--input",
            &"text.txt",
            &"--output",
            &"-",
        ])
        .ok()
}

#[test]
fn a_model_merged_with_itself_is_itself() {
    let sandbox = Sandbox::new();
    copy_folder(&model(), &sandbox.path("copy"));
    let own = embedding(&sandbox, &model());
    for (output, flags) in [
        ("soup", ["--weights", "1,3"].as_slice()),
        ("between", &["--method", "slerp", "--t", "0.25"]),
        ("signs", &["--method", "ties", "--base-model", "copy"]),
    ] {
        let flags = [&["--model", "copy", "--output", output], flags].concat();
        merge(&sandbox, &flags).ok();
        // Rounding moves the last digits at most.
        let found = embedding(&sandbox, &sandbox.path(output));
        let numbers = |text: &str| -> Vec<f64> {
            let object: serde_json::Value = serde_json::from_str(text).unwrap();
            serde_json::from_value(object["embedding"].clone()).unwrap()
        };
        for (found, own) in numbers(&found).iter().zip(numbers(&own)) {
            assert!(
                (found - own).abs() < 1e-5,
                "{output}: {found} and not {own}"
            );
        }
    }
    merge(&sandbox, &["--model", "copy", "--output", "soup"]).failed(2, &["is there already"]);
}

#[test]
fn what_can_not_be_merged_is_refused() {
    let sandbox = Sandbox::new();
    copy_folder(&model(), &sandbox.path("copy"));
    for (flags, part) in [
        ([].as_slice(), "two models or more"),
        (
            &["--model", "copy", "--t", "0.5"],
            "--t is for --method slerp",
        ),
        (
            &["--model", "copy", "--weights", "1"],
            "--weights gives 1 for 2 models",
        ),
        (&["--model", "copy", "--weights", "1,-1"], "sum is not 0"),
        (
            &["--model", "copy", "--method", "ties"],
            "needs --base-model",
        ),
        (
            &["--model", "copy", "--method", "slerp", "--t", "2"],
            "from 0 to 1",
        ),
        (
            &["--model", "copy", "--model", "copy", "--method", "slerp"],
            "takes two models, not 3",
        ),
    ] {
        let flags = [&["--output", "merged"], flags].concat();
        merge(&sandbox, &flags).failed(2, &[part]);
    }
    let config = sandbox.path("copy/config.json");
    let text = fs_err::read_to_string(&config).unwrap();
    fs_err::write(
        &config,
        text.replace("\"layer_norm_eps\": 1e-05", "\"layer_norm_eps\": 1e-06"),
    )
    .unwrap();
    merge(&sandbox, &["--model", "copy", "--output", "merged"])
        .failed(1, &["model 2 differs from model 1 in config.json"]);
}
