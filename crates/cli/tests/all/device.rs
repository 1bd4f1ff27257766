//! `--device`, and the libtorch that `SENTUNE_LIBTORCH` names.

use std::path::{Path, PathBuf};

use crate::sandbox::{Ended, Sandbox};

fn eval(sandbox: &Sandbox, more: &[&str], libtorch: Option<&Path>) -> Ended {
    let mut command = sandbox.line("eval --model MODEL --data DATA/triplets-dev.jsonl");
    command.args(more);
    command.env_remove("CUDA_VISIBLE_DEVICES");
    command.env_remove("SENTUNE_LIBTORCH");
    if let Some(libtorch) = libtorch {
        command.env("SENTUNE_LIBTORCH", libtorch);
    }
    Ended::from(command.output().unwrap())
}

fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

/// The folder of the libtorch that the program was linked to, from its own log.
fn linked(sandbox: &Sandbox) -> PathBuf {
    let ended = eval(sandbox, &["-v", "--device", "cpu"], None);
    let line = ended.stderr.lines();
    let mut folders = line.filter_map(|line| line.split_once("libtorch is in "));
    let (_, folder) = folders.next().unwrap_or_else(|| panic!("{ended:?}"));
    folder.into()
}

/// A libtorch in another place, with other files, but without CUDA; of this version.
fn another(sandbox: &Sandbox, version: &str) -> PathBuf {
    let folder = sandbox.path("another");
    fs_err::create_dir_all(folder.join("lib")).unwrap();
    for entry in fs_err::read_dir(linked(sandbox)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let target = folder.join("lib").join(name);
        if name == "libtorch_cpu.so" {
            // Half a gigabyte: another name for the same file, where that can be had.
            if fs_err::hard_link(&path, &target).is_err() {
                fs_err::copy(&path, &target).unwrap();
            }
        } else if !name.contains("cuda.so") {
            #[cfg(unix)]
            fs_err::os::unix::fs::symlink(&path, &target).unwrap();
        }
    }
    fs_err::write(folder.join("build-version"), version).unwrap();
    fs_err::canonicalize(folder).unwrap()
}

#[test]
fn a_device_that_is_none_is_wrong_use() {
    let sandbox = Sandbox::new();
    for name in ["gpu", "cuda:", "cuda:one"] {
        let ended = eval(&sandbox, &["--device", name], None);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(
            ended.stderr.contains("auto, cpu, cuda or cuda:N"),
            "{ended:?}"
        );
    }
    let ended = sandbox.sentune("--device cpu data stat --data x.csv");
    ended.failed(2, &["--device cpu", "leave the flag out"]);
}

#[test]
fn auto_without_a_gpu_is_the_cpu() {
    if has_driver() {
        return;
    }
    let sandbox = Sandbox::new();
    let auto = eval(&sandbox, &["--json", "-v"], None);
    assert!(auto.stderr.contains("computing on the CPU: "), "{auto:?}");
    let quiet = eval(&sandbox, &["--json", "--device", "auto"], None);
    assert!(!quiet.stderr.contains("computing on"), "{quiet:?}");
    let cpu = eval(&sandbox, &["--json", "--device", "cpu"], None).ok();
    assert_eq!([auto.ok(), quiet.ok()], [cpu.clone(), cpu]);
}

#[test]
fn cuda_is_there_or_what_is_missing_is_named() {
    let sandbox = Sandbox::new();
    let ended = eval(&sandbox, &["--device", "cuda:0"], None);
    if ended.code == Some(0) {
        assert!(has_driver(), "{ended:?}");
        return;
    }
    if ended.stderr.contains("libtorch_cuda.so") {
        ended.failed(
            1,
            &[
                "--device cuda:0",
                "cargo xtask setup --cuda",
                "SENTUNE_LIBTORCH",
            ],
        );
    } else {
        ended.failed(1, &["--device cuda:0", "NVIDIA driver"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn another_libtorch_is_run_with_where_it_is_named() {
    let sandbox = Sandbox::new();
    let folder = another(&sandbox, "2.11.0+cpu");
    for named in [folder.clone(), folder.join("lib")] {
        let ended = eval(&sandbox, &["--device", "cuda"], Some(&named));
        let missing = format!("{} has no libtorch_cuda.so", folder.join("lib").display());
        ended.failed(1, &[&missing]);
        let ended = eval(&sandbox, &["-v", "--device", "cpu"], Some(&named));
        assert_eq!(
            ended.stderr.matches("libtorch is in ").count(),
            1,
            "{ended:?}"
        );
        let own = format!("libtorch is in {}\n", folder.join("lib").display());
        assert!(ended.stderr.contains(&own), "{ended:?}");
        ended.ok();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_libtorch_that_will_not_do_is_refused() {
    let sandbox = Sandbox::new();
    let ended = eval(&sandbox, &[], Some(&sandbox.path("nowhere")));
    ended.failed(
        1,
        &[
            "SENTUNE_LIBTORCH leads to",
            "no libtorch_cpu.so",
            "torch.__path__",
        ],
    );
    let folder = another(&sandbox, "2.9.1+cu128");
    let ended = eval(&sandbox, &[], Some(&folder));
    ended.failed(
        1,
        &[
            "another/lib is version 2.9.1+cu128",
            "needs 2.11",
            "SENTUNE_LIBTORCH",
        ],
    );
}

/// With a driver, or what the loader takes for one, the library is loaded and the loader's words are passed on.
#[cfg(target_os = "linux")]
#[test]
fn a_cuda_library_that_can_not_be_loaded_is_named() {
    let sandbox = Sandbox::new();
    let folder = another(&sandbox, "2.11.0");
    sandbox.write("another/lib/libtorch_cuda.so", "no library");
    fs_err::create_dir(sandbox.path("driver")).unwrap();
    // Any library that is there will do for a driver.
    let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]));
    let library = paths.find(|path| path.ends_with("/libgcc_s.so.1")).unwrap();
    fs_err::copy(library, sandbox.path("driver/libcuda.so.1")).unwrap();
    let run = |device: &str| {
        let mut command = sandbox.line("eval --model MODEL --data DATA/triplets-dev.jsonl");
        command.args(["--device", device]);
        command.env("SENTUNE_LIBTORCH", &folder);
        command.env("LD_LIBRARY_PATH", sandbox.path("driver"));
        Ended::from(command.output().unwrap())
    };
    run("cuda").failed(
        1,
        &[
            "--device cuda: ",
            "another/lib/libtorch_cuda.so can't be loaded: ",
        ],
    );
    run("auto").ok();
}
