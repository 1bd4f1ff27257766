//! Compiles our C++ against libtorch's headers, and makes this crate's tests find libtorch at run time.

use std::{
    env,
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
    if env::var_os("CARGO_FEATURE_CUDA_GRAPHS").is_some() {
        compile_cuda_graphs(&include, &abi, &lib);
    }
}

/// Compiles the C++ that needs CUDA's headers to a library. Its references to libtorch are resolved when it is opened.
fn compile_cuda_graphs(include: &Path, abi: &str, lib: &Path) {
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
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let compiler = cc::Build::new().cpp(true).warnings(false).get_compiler();
    let mut command = compiler.to_command();
    command
        .args(["-shared", "-fPIC", "-std=c++17", "-O2"])
        .arg(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"))
        .arg("-I")
        .arg(include)
        .arg("-I")
        .arg(cuda)
        .arg("cpp/cuda_graph.cpp")
        .arg("-o")
        .arg(out.join("libsentune_cuda_graph.so"));
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => println!("cargo::error=cpp/cuda_graph.cpp was not compiled: {status}"),
        Err(error) => println!("cargo::error={:?}: {error}", compiler.path()),
    }
}
