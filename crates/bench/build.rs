//! Lets this crate's binary find libtorch when it runs.

fn main() {
    libtorch::link_run_path();
}
