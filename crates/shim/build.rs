//! Lets this crate's tests and binaries find libtorch when they run.

fn main() {
    libtorch::link_run_path();
}
