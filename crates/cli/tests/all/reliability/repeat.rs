//! Test 10: the same command gives the same weights.

use super::*;

#[test]
fn the_same_command_gives_the_same_weights() {
    let sandbox = Sandbox::new();
    let n = count(2, 20);
    let mut results = Vec::new();
    for n_threads in ["1", "2"] {
        for i in 0..n {
            let run = Training::sixty(&sandbox, &format!("run-{n_threads}-{i}"))
                .and(&["--num-threads", n_threads]);
            run.run(&[]).ok();
            results.push(run.result());
            fs_err::remove_dir_all(run.folder()).unwrap();
        }
    }
    let n_same = results
        .iter()
        .filter(|result| **result == results[0])
        .count();
    report(
        "runs on one and on two threads with the same bits",
        n_same,
        2 * n,
    );
}
