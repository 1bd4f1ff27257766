//! `cargo xtask train-gpu` and `bench --device cuda` on machines without a GPU, and with a stand-in for one.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{
    error::Error,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use fs_err as fs;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Notes each call beside itself.
const LOGGER: &str = "#!/bin/sh\necho \"$*\" >> \"$0.log\"\n";

/// An old GPU, in the words of the driver's tool.
const T4: &str = "#!/bin/sh\necho 'Tesla T4, 15360, 550.54.15, 7.5'\n";

/// A bare checkout and the tools of the test's choice.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new(tools: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("checkout/xtask"))?;
        fs::create_dir(folder.path().join("bin"))?;
        for (name, script) in tools {
            let path = folder.path().join("bin").join(name);
            fs::write(&path, script)?;
            fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `xtask`, with a libtorch of the user's own that has CUDA.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let own = self.path("own");
        fs::create_dir_all(own.join("lib"))?;
        for library in ["libtorch_cpu.so", "libtorch_cuda.so"] {
            fs::write(own.join("lib").join(library), "")?;
        }
        fs::write(own.join("build-version"), "2.11.0+cu130")?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.path("home"))
            .env("CARGO_MANIFEST_DIR", self.path("checkout/xtask"))
            .env("LIBTORCH", own);
        Ok(command.output()?)
    }

    /// The calls of a tool that notes them.
    fn calls(&self, tool: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("bin").join(format!("{tool}.log")));
        log.map_or_else(
            |_| Vec::new(),
            |log| log.lines().map(str::to_owned).collect(),
        )
    }
}

fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_driver_nothing_is_fetched_and_nothing_built() -> Result {
    if has_driver() {
        return Ok(());
    }
    let tools = [("cargo", LOGGER), ("python3", LOGGER), ("c++", LOGGER)];
    let carried = ["bench", "--device", "cuda", "--sentune", "carried"];
    for arguments in [
        &["train-gpu"][..],
        &["train-gpu", "--", "--max-steps", "10"],
        &["bench", "--device", "cuda"],
        &carried,
    ] {
        let machine = Machine::new(&tools)?;
        let output = machine.run(arguments)?;
        let words = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(
            words.contains("no NVIDIA driver") && words.contains("nothing was downloaded"),
            "{words}"
        );
        for (tool, _) in tools {
            assert_eq!(machine.calls(tool), Vec::<String>::new(), "{arguments:?}");
        }
        assert!(!machine.path("home").exists());
    }
    Ok(())
}

#[test]
fn the_articles_run_is_made_as_suits_the_gpu() -> Result {
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", T4)])?;
    let output = machine.run(&["train-gpu"])?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("train-gpu: Tesla T4, 15 GiB, driver 550.54.15"));
    assert_eq!(
        machine.calls("cargo"),
        [
            "build --bin sentune",
            // The chip has no bf16.
            "run --quiet --bin sentune -- train --device cuda --precision fp16 --auto-micro-batch",
        ]
    );
    Ok(())
}

#[test]
fn what_follows_the_dashes_goes_to_the_training() -> Result {
    let h200 = "#!/bin/sh\necho 'NVIDIA H200, 143771, 570.86, 9.0'\n";
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", h200)])?;
    let own = [
        "train-gpu",
        "--",
        "--train-data",
        "own.csv",
        "--device=cuda:1",
    ];
    let output = machine.run(&own)?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        machine.calls("cargo")[1],
        "run --quiet --bin sentune -- train --precision bf16 --auto-micro-batch --train-data own.csv --device=cuda:1"
    );
    Ok(())
}

#[test]
fn a_gpu_without_a_libtorch_for_it_is_said_before_the_build() -> Result {
    let machine = Machine::new(&[("cargo", LOGGER), ("nvidia-smi", T4)])?;
    fs::create_dir_all(machine.path("own/lib"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command
        .arg("train-gpu")
        .env_clear()
        .env("PATH", machine.path("bin"))
        .env("HOME", machine.path("home"))
        .env("CARGO_MANIFEST_DIR", machine.path("checkout/xtask"))
        .env("LIBTORCH", machine.path("own"));
    let output = command.output()?;
    let words = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("has no libtorch_cuda.so"), "{words}");
    assert!(machine.calls("cargo").is_empty());
    Ok(())
}

/// Python as the benchmark calls it, with the peer's lines; it trains and encodes in no time.
const PYTHON: &str = r#"#!/bin/sh
case "$*" in
  *find_spec*) echo "$PYTHONPATH/torch" ;;
  *"import sentence_transformers"*) echo 6.2.0 ;;
  *"import torch"*) echo 2.11.0+cu130 ;;
  *inputs.py*)
    while [ $# -gt 0 ]; do
      case "$1" in --triplets | --sentences)
        n=0
        while [ $n -lt 40000 ]; do echo text; n=$((n + 1)); done > "$2" ;;
      esac
      shift
    done ;;
  *gemm.py*"--device cuda"*)
    echo '{"type":"gpu","name":"GPU X","memory_bytes":80e9,"capability":"9.0","cuda":"13.0","torch":"2.11.0"}'
    echo '{"type":"product","precision":"bf16","shape":[1,1,1],"gflops":700000}' ;;
  *train.py*"--device cuda --precision bf16 --batch-size 16 "*)
    echo '{"type":"window","seconds":2,"n_rows":800,"n_tokens":30000,"device_peak_bytes":2000000000}' ;;
  *train.py*)
    echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB' >&2
    exit 1 ;;
  *encode.py*"--device cuda --precision bf16 --batch-size 256"*)
    echo '{"type":"encoded","seconds":2,"n_rows":8192,"n_tokens":100000,"device_peak_bytes":1000000000}' ;;
  *) exit 1 ;;
esac
"#;

/// A `sentune` that tells of 50 steps every fifth of a second, has no room for large batches, and takes 2 s to encode
/// the few sentences and 4 s for the many.
const SENTUNE: &str = r#"#!/bin/sh
case "$SENTUNE_LIBTORCH" in */packages/torch) ;; *) exit 3 ;; esac
echo "$*" >> "$0.log"
case "$*" in
  init*)
    while [ "$1" != --output ]; do shift; done
    /bin/mkdir -p "$2"
    echo '{"hidden_size":768,"intermediate_size":3072,"num_hidden_layers":12}' > "$2/config.json" ;;
  *"--batch-size 1024 "*)
    echo 'error: CUDA out of memory: the batch does not fit' >&2
    exit 1 ;;
  *"--device cuda --quiet train --json"*)
    echo '{"type":"begin"}'
    while echo '{"type":"log","loss":1,"n_rows":800,"n_tokens":30000,"device_memory_peak":1500000000}'; do
      /bin/sleep 0.2
    done ;;
  *"--device cuda encode"*)
    while [ "$1" != --input ]; do shift; done
    n=0
    while read -r _; do n=$((n + 1)); done < "$2"
    [ $n -gt 4096 ] && seconds=4.0 || seconds=2.0
    echo " INFO encoded $n sentences in $seconds s: 1 sentences/s" >&2 ;;
esac
"#;

#[test]
fn a_carried_benchmark_builds_nothing_and_ends_with_its_table() -> Result {
    let tools = [
        ("cargo", LOGGER),
        ("nvidia-smi", T4),
        ("python3", PYTHON),
        ("sentune", SENTUNE),
    ];
    let machine = Machine::new(&tools)?;
    fs::create_dir_all(machine.path("packages/torch"))?;
    let flag = |flag: &str, name: &str| format!("--{flag}={}", machine.path(name).display());
    let output = machine.run(&[
        "bench",
        "--device=cuda",
        &flag("sentune", "bin/sentune"),
        "--sentune-args=--cuda-graphs",
        &flag("python-packages", "packages"),
        "--precisions=bf16",
        "--only=gemm,train-base-16,train-base-1024,encode-base",
        // Short windows, and time enough on a machine that has other things to do.
        "--quick",
        "--minutes=5",
        &flag("json", "all.json"),
    ])?;
    let (words, table) = (stderr(&output), String::from_utf8(output.stdout)?);
    assert!(output.status.success(), "{words}");
    assert!(machine.calls("cargo").is_empty(), "{words}");
    for line in [
        " with GPU X (80 GB, compute capability 9.0;",
        ", beside sentence-transformers 6.2.0: mpnet-base-random on ",
        "sentune ran with `--cuda-graphs`.",
        // sentune's own clock is real, so its figure is not known to the last digit.
        "| train-base-1024, bf16 | out of memory | out of memory |",
        " triplets/s | 400 triplets/s | ",
        "| encode-base, bf16 | sentune | ",
    ] {
        assert!(
            table.contains(line),
            "`{line}` is not in
{table}
{words}"
        );
    }
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(machine.path("all.json"))?)?;
    let row = &json["rows"][0];
    assert_eq!(
        (&row["case"], &row["peer"]["value"]),
        (&"train-base-16, bf16".into(), &400.0.into())
    );
    let speed = row["sentune"]["value"].as_f64().ok_or("no speed")?;
    // 800 rows every fifth of a second and a little more.
    assert!((400.0..=4200.0).contains(&speed), "{speed}");
    assert_eq!(row["sentune"]["allocated_bytes"], 1.5e9);
    let kept = machine.path("checkout/runs/bench/cuda-quick.json");
    assert!(kept.exists() && !kept.with_file_name("cuda.json").exists());

    // In a checkout, what was measured elsewhere is written down without a GPU.
    let document = machine.path("checkout/docs/benchmarks.md");
    fs::create_dir(machine.path("checkout/docs"))?;
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md"),
        &document,
    )?;
    fs::rename(&kept, kept.with_file_name("cuda.json"))?;
    fs::remove_file(machine.path("bin/nvidia-smi"))?;
    let output = machine.run(&["bench", "--device=cuda", "--report"])?;
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(document)?;
    assert!(text.contains("| train-base-1024, bf16 | out of memory | out of memory |"));
    let calls = machine.calls("sentune");
    let called = |words: &str| calls.iter().any(|call| call.contains(words));
    assert!(
        called("--batch-size 16 ") && called("--batch-size 1024 "),
        "{calls:?}"
    );
    assert!(
        called("--precision bf16 --auto-micro-batch --cuda-graphs"),
        "{calls:?}"
    );
    assert!(called("--precision bf16 --cuda-graphs"), "{calls:?}");
    Ok(())
}

#[test]
fn a_carried_program_that_is_not_there_is_named() -> Result {
    let machine = Machine::new(&[("nvidia-smi", T4), ("cargo", LOGGER)])?;
    let output = machine.run(&["bench", "--device", "cuda", "--sentune", "carried"])?;
    assert!(
        stderr(&output).contains("carried is no file"),
        "{}",
        stderr(&output)
    );
    assert!(machine.calls("cargo").is_empty());
    Ok(())
}
