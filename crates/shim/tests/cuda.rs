//! Test of the real CUDA library, with a libtorch that has it. One process, since the library is never closed.

use tch::{Cuda, Device, Kind, Tensor};

use shim::cuda;

/// `LD_LIBRARY_PATH=FOLDER/lib cargo test -p shim --test cuda -- --ignored`, where FOLDER is a libtorch with CUDA:
/// that of `cargo xtask setup --cuda`, or Python's package torch.
#[test]
#[ignore = "needs a libtorch with CUDA"]
fn the_library_brings_cuda_to_a_program_linked_without() {
    let folder = cuda::libtorch_folder().unwrap();
    cuda::load(&folder.join(cuda::LIBRARY)).unwrap();
    let on_device = || Tensor::f_ones([2, 2], (Kind::Float, Device::Cuda(0)))?.f_sum(Kind::Float);
    if Cuda::device_count() > 0 {
        assert_eq!(on_device().unwrap().double_value(&[]), 4.0);
        assert_eq!(cuda::open().unwrap() as i64, Cuda::device_count());
        return;
    }
    // Without the library libtorch says that it was built without CUDA.
    let error = on_device().unwrap_err().to_string();
    assert!(
        error.contains("driver") || error.contains("No CUDA GPUs"),
        "{error}"
    );
    assert!(cuda::open().is_err());
    // Tensors on the CPU keep working.
    let sum = Tensor::f_ones([2, 2], (Kind::Float, Device::Cpu)).unwrap();
    assert_eq!(sum.sum(Kind::Float).double_value(&[]), 4.0);
}
