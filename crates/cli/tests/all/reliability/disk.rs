//! Test 5: disks that are full, read-only or not to be written, and processes with too few files.

use super::*;

/// Twelve steps with a checkpoint every fourth.
const FLAGS: &str =
    "--max-steps 12 --save-steps 4 --logging-steps 2 --learning-rate 1e-3 --num-threads 1";

/// Every error of a write that a disk can give, and what is said about it.
const ERRORS: [(i32, &str); 6] = [
    (
        28,
        "the disk is full; free some space, then go on with --resume-from-checkpoint",
    ),
    (13, "there is no permission to; grant it"),
    (30, "the file system is read-only; mount it to be written"),
    (24, "too many files are open; raise the limit (ulimit -n)"),
    (122, "the disk quota is used up"),
    (5, "look after the disk"),
];

/// An error at any place of a save, of the log or of the final model ends the run with the path and what to do.
/// The checkpoint before is whole, and the run goes on from it.
#[test]
fn errors_at_every_place() {
    let sandbox = Sandbox::new();
    let whole = Training::new(&sandbox, "whole", &words(FLAGS));
    whole.run(&[]).ok();
    let expected = whole.result();
    let n = count(6, 100);
    let mut random = Random::new(5);
    let mut n_passed = 0;
    while n_passed < n {
        let (code, advice) = ERRORS[n_passed % ERRORS.len()];
        let place = 1 + random.below(220);
        let run = Training::new(&sandbox, "run", &words(FLAGS));
        let failed = run.run_with(&format!("*@{place}=error:{code}"), &[]);
        if failed.status.success() {
            // There are fewer places than that.
            fs_err::remove_dir_all(run.folder()).unwrap();
            continue;
        }
        let what = format!("error {code} at place {place}");
        assert_eq!(failed.status.code(), Some(1), "{what}: {failed:?}");
        let error = failed.stderr.lines().last().unwrap();
        assert!(error.starts_with("error: "), "{what}: {failed:?}");
        for part in ["run/", advice, &format!("(os error {code})")] {
            assert!(error.contains(part), "{what}: `{part}` is not in: {error}");
        }
        let steps = checkpoints(&run.folder());
        let ended = if run.folder().exists() {
            run.go_on()
        } else {
            run.run(&[])
        };
        assert!(
            !ended.stderr.contains("WARN checkpoint"),
            "{what}: {steps:?}, {ended:?}"
        );
        expected.assert_same(&run.result(), &what);
        fs_err::remove_dir_all(run.folder()).unwrap();
        n_passed += 1;
    }
    report("injected disk errors told and resumed from", n_passed, n);
}

/// A tmpfs of some size, until dropped.
#[cfg(target_os = "linux")]
struct Tmpfs(PathBuf);

#[cfg(target_os = "linux")]
impl Tmpfs {
    /// `None` where the user may not mount.
    fn mount(folder: &Path, options: &str) -> Option<Self> {
        fs_err::create_dir_all(folder).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(folder)
            .output()
            .ok()?;
        output.status.success().then(|| Self(folder.to_owned()))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success());
    }
}

#[cfg(target_os = "linux")]
impl Drop for Tmpfs {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status().unwrap();
        assert!(status.success(), "{} stays mounted", self.0.display());
    }
}

/// A disk that is full after each megabyte of a run: the run ends with the path, goes on once there is room, and
/// ends as if there had always been.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_is_full_at_every_megabyte() {
    let sandbox = Sandbox::new();
    let Some(probe) = Tmpfs::mount(&sandbox.path("probe"), "size=1m") else {
        say("full disks: skipped, for only root may mount one");
        return;
    };
    drop(probe);
    // A checkpoint of this model takes 7 MB.
    let vocabulary = model().join("vocab.txt");
    sandbox
        .sentune(&format!(
            "init --vocab-file {} --output larger --hidden-size 128 --num-hidden-layers 3 \
                --num-attention-heads 4 --intermediate-size 512 --max-position-embeddings 130",
            vocabulary.display()
        ))
        .ok();
    let training = |run: &str| {
        Training::new(&sandbox, run, &words(FLAGS))
            .and(&["--model", sandbox.path("larger").to_str().unwrap()])
    };
    let whole = training("whole");
    whole.run(&[]).ok();
    let expected = whole.result();
    let size = folder_size(&whole.folder()) / (1 << 20);
    let stride = count(size as usize / 2, 1);
    let (mut n_full, mut n_passed) = (0, 0);
    for megabytes in (1..=size).step_by(stride) {
        let run = training("disk/run");
        let disk = Tmpfs::mount(&sandbox.path("disk"), &format!("size={megabytes}m")).unwrap();
        let ended = run.run(&[]);
        if ended.code != Some(0) {
            n_full += 1;
            let what = format!("{megabytes} MB");
            assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
            ended.failed(
                1,
                &[
                    "disk/run/",
                    "the disk is full; free some space",
                    "(os error 28)",
                ],
            );
            disk.remount("size=200m");
            run.go_on();
        }
        expected.assert_same(&run.result(), &format!("{megabytes} MB"));
        drop(disk);
        n_passed += 1;
    }
    assert!(
        n_full * 10 > n_passed * 7,
        "{n_full} of {n_passed} disks were full"
    );
    report("disks full after each megabyte", n_passed, n_passed);

    let disk = Tmpfs::mount(&sandbox.path("disk"), "size=1m,ro").unwrap();
    training("disk/run")
        .run(&[])
        .failed(1, &["--output-dir", "disk/run", "Read-only file system"]);
    drop(disk);
}

#[cfg(target_os = "linux")]
fn folder_size(folder: &Path) -> u64 {
    let entries = fs_err::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folder_size(&entry.path())
            } else {
                metadata.len()
            }
        })
        .sum()
}

/// Too few files for a process: it says so, or gets by with them.
#[test]
fn limits_of_open_files() {
    let sandbox = Sandbox::new();
    let whole = Training::new(&sandbox, "whole", &words(FLAGS));
    whole.run(&[]).ok();
    let expected = whole.result();
    let (mut n_passed, mut n_failed) = (0, 0);
    // With fewer, the dynamic linker finds no libtorch.
    let limits = 4..=count(6, 23);
    let n = limits.clone().count();
    for limit in limits {
        let run = Training::new(&sandbox, "run", &words(FLAGS));
        let command = run.command(&[]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let ended = Ended::from(shell.output().unwrap());
        let what = format!("{limit} files: {ended:?}");
        if ended.code != Some(0) {
            n_failed += 1;
            assert!(ended.stderr.contains("os error 24"), "{what}");
            assert_eq!(ended.code, Some(1), "{what}");
            if run.folder().exists() {
                run.go_on()
            } else {
                run.run(&[])
            };
        }
        expected.assert_same(&run.result(), &what);
        fs_err::remove_dir_all(run.folder()).unwrap();
        n_passed += 1;
    }
    assert!(n_failed > 0, "no limit was too low");
    report("limits of open files", n_passed, n);
}
