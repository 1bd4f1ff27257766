//! Test 9, the run's side: losses and gradients that are not finite.

use super::*;

/// The newest checkpoint of a run.
fn newest(run: &Path) -> u64 {
    checkpoints(run).last().copied().unwrap_or(0)
}

/// A NaN or an infinity is caught at the very step, before the update; the checkpoint before is good, and the run
/// that goes on from it, without the NaN, ends as if it had never been.
#[test]
fn injected_numbers_are_caught_at_their_step() {
    let sandbox = Sandbox::new();
    let whole = Training::sixty(&sandbox, "whole");
    whole.run(&[]).ok();
    let expected = whole.result();
    let n = count(4, 100);
    let mut random = Random::new(9);
    let mut n_caught = 0;
    for i in 0..n {
        let step = 1 + random.below(60);
        let place = ["loss", "gradient"][i % 2];
        let number = ["nan", "inf", "-inf"][i % 3];
        let run = Training::sixty(&sandbox, "run");
        let what = format!("{place}@{step}={number}");
        let failed = run.run_with(&what, &[]);
        assert_eq!(failed.status.code(), Some(1), "{what}: {failed:?}");
        let error = failed.stderr.lines().last().unwrap();
        assert!(error.starts_with("error: non-finite "), "{what}: {error}");
        assert!(
            error.contains(&format!(" at step {step}")),
            "{what}: {error}"
        );
        for part in ["learning rate", "training rows ["] {
            assert!(error.contains(part), "{what}: {error}");
        }
        assert!(newest(&run.folder()) < step, "{what}");
        let metrics = fs_err::read_to_string(run.folder().join("metrics.jsonl")).unwrap();
        for entry in json_lines(&metrics) {
            assert!(entry["step"].as_u64().unwrap() < step, "{what}: {entry}");
        }
        run.go_on();
        expected.assert_same(&run.result(), &what);
        fs_err::remove_dir_all(run.folder()).unwrap();
        n_caught += 1;
    }
    report(
        "injected NaNs and infinities caught at their step",
        n_caught,
        n,
    );
}

/// `--skip-nonfinite N` leaves out N steps in a row, logs them as what they were, and stops at one more.
#[test]
fn as_many_as_allowed_are_skipped() {
    let sandbox = Sandbox::new();
    let allowed = Training::sixty(&sandbox, "run").and(&["--skip-nonfinite", "2"]);
    let spoiled = "loss@5=nan;loss@6=inf;gradient@18=-inf";
    let ended = allowed.run_with(spoiled, &[]);
    assert!(ended.status.success(), "{ended:?}");
    for part in [
        "WARN skipped: non-finite loss NaN at step 5",
        "WARN skipped: non-finite loss inf at step 6",
        // Two of the twenty before had no gradient looked at.
        "WARN skipped: non-finite gradient norm inf at step 18",
    ] {
        assert!(ended.stderr.contains(part), "`{part}` is not in: {ended:?}");
    }
    let result = allowed.result();
    assert_eq!(result.last_step, 60);
    let skipped = |entry: &&serde_json::Value| entry.get("skipped_loss").is_some();
    let steps: Vec<_> = result
        .metrics
        .iter()
        .filter(skipped)
        .map(|entry| entry["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [5, 6, 18]);
    assert_eq!(
        result.metrics.iter().find(skipped).unwrap()["skipped_loss"],
        "NaN"
    );
    let logged: Vec<_> = result
        .metrics
        .iter()
        .filter(|entry| entry.get("loss").is_some())
        .collect();
    assert_eq!(logged[0]["skipped_steps"], 2);
    assert!(
        logged
            .iter()
            .all(|entry| entry["loss"].as_f64().is_some_and(f64::is_finite))
    );

    // Killed in between and gone on with, the moments count the updates and not the steps.
    let broken = Training::sixty(&sandbox, "broken").and(&["--skip-nonfinite", "2"]);
    let failed = broken.run_with(&format!("{spoiled};rename checkpoint-21@1=kill"), &[]);
    assert_eq!(failed.status.signal(), Some(6), "{failed:?}");
    broken.go_on();
    result.assert_same(&broken.result(), "skipped and resumed");

    let strict = Training::sixty(&sandbox, "strict").and(&["--skip-nonfinite", "1"]);
    let failed = strict.run_with("loss@5=nan;loss@6=inf", &[]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(
        failed
            .stderr
            .contains("error: non-finite loss inf at step 6"),
        "{failed:?}"
    );
}
