//! `sentune merge`: soups of models that are saved as models.

use crate::sandbox::{Ended, Sandbox, copy_folder, model};

fn merge(sandbox: &Sandbox, flags: &[&str]) -> Ended {
    sandbox.sentune_with("merge --model MODEL", flags)
}

#[test]
fn a_model_merged_with_itself_is_itself() {
    let sandbox = Sandbox::new();
    copy_folder(&model(), &sandbox.path("copy"));
    let own = sandbox.embedding("MODEL", &[]);
    for (output, flags) in [
        ("soup", ["--weights", "1,3"].as_slice()),
        ("between", &["--method", "slerp", "--t", "0.25"]),
        ("signs", &["--method", "ties", "--base-model", "copy"]),
    ] {
        let flags = [&["--model", "copy", "--output", output], flags].concat();
        merge(&sandbox, &flags).ok();
        // Rounding moves the last digits at most.
        let found = sandbox.embedding(output, &[]);
        for (found, own) in found.iter().zip(&own) {
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
