//! Compiles our C++ against libtorch's headers, and makes this crate's tests find libtorch at run time.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    libtorch::link_run_path();
    println!("cargo::rerun-if-changed=cpp");
    // Without libtorch, the call above has reported what to do.
    let Some(lib) = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        return;
    };
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    // The same places as torch-sys: LIBTORCH_INCLUDE, else beside the libraries.
    let include = env::var_os("LIBTORCH_INCLUDE")
        .map_or_else(|| lib.with_file_name(""), PathBuf::from)
        .join("include");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(include.join("torch/csrc/api/include"))
        .include(&include)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .file("cpp/torch.cpp")
        .compile("sentune_torch");
    let libraries = Libraries { include, abi };
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        compile_ranks(&libraries);
    }
    if env::var_os("CARGO_FEATURE_CUDA_GRAPHS").is_some() {
        compile_cuda_graphs(&libraries, &lib);
    }
}

/// The compiler of libraries that the program embeds, whose references to libtorch are resolved when they are opened.
struct Libraries {
    /// libtorch's headers.
    include: PathBuf,
    /// The value of `_GLIBCXX_USE_CXX11_ABI`.
    abi: String,
}

impl Libraries {
    /// Compiles `cpp/<name>.cpp` to `libsentune_<name>.so`.
    fn compile(&self, name: &str, include: &Path) {
        let source = format!("cpp/{name}.cpp");
        let compiler = cc::Build::new().cpp(true).warnings(false).get_compiler();
        let mut command = compiler.to_command();
        command
            .args(["-shared", "-fPIC", "-std=c++17", "-s"])
            .arg(format!("-D_GLIBCXX_USE_CXX11_ABI={}", self.abi))
            .arg("-I")
            .arg(include)
            .arg("-I")
            .arg(&self.include)
            .arg("-I")
            .arg(self.include.join("torch/csrc/api/include"))
            .arg(&source)
            .arg("-o")
            .arg(out(name));
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => println!("cargo::error={source} was not compiled: {status}"),
            Err(error) => println!("cargo::error={:?}: {error}", compiler.path()),
        }
    }
}

/// Place of the compiled library of that name.
fn out(name: &str) -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(format!("libsentune_{name}.so"))
}

/// Compiles the C++ of ranks. Where libtorch was built without distributed, the library is empty.
fn compile_ranks(libraries: &Libraries) {
    let group = "torch/csrc/distributed/c10d/ProcessGroupGloo.hpp";
    if libraries.include.join(group).exists() {
        libraries.compile("ranks", Path::new("cpp/gloo-stubs"));
    } else if let Err(error) = fs::write(out("ranks"), "") {
        println!("cargo::error={}: {error}", out("ranks").display());
    }
}

/// Compiles the C++ that needs CUDA's headers.
fn compile_cuda_graphs(libraries: &Libraries, lib: &Path) {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    // CUDA_HOME, else the folder of `cargo xtask setup --cuda`.
    let cuda = env::var_os("CUDA_HOME")
        .map_or_else(|| lib.with_file_name("cuda"), PathBuf::from)
        .join("include");
    if !cuda.join("cuda_runtime_api.h").exists() {
        println!(
            "cargo::error=the feature cuda-graphs takes CUDA's headers, and there is no {}: run `cargo xtask setup --cuda`, or let CUDA_HOME lead to a CUDA 13",
            cuda.join("cuda_runtime_api.h").display()
        );
        return;
    }
    libraries.compile("cuda_graph", &cuda);
}
