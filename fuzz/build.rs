//! Lets the fuzz targets find libtorch when they run.

fn main() {
    libtorch::link_run_path();
}
