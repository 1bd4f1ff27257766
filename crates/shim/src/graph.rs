//! CUDA graphs: the kernels of a step, recorded once and launched at one go.
//!
//! The C++ is `cpp/cuda_graph.cpp`, which needs CUDA's headers and so the feature `cuda-graphs`. It is a library that
//! the program carries in itself and opens when it is first asked for, after libtorch_cuda.so.

use std::{
    ffi::{c_char, c_void},
    marker::PhantomData,
};

use tch::TchError;

use crate::torch::check;

/// Whether this build carries the library.
pub const AVAILABLE: bool = cfg!(feature = "cuda-graphs");

/// The functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    begin: unsafe extern "C" fn(*mut *mut c_void) -> *mut c_char,
    end: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
    replay: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
    free: unsafe extern "C" fn(*mut c_void),
}

/// A recorded piece of work. Its tensors have to stay where they are: it reads and writes their memory again at each
/// replay.
pub struct Graph {
    functions: Functions,
    recording: *mut c_void,
    /// It belongs to the thread that has made it, as CUDA's streams do.
    not_send: PhantomData<*mut c_void>,
}

impl Graph {
    /// Records what `work` hands to the GPU, and does none of it.
    ///
    /// # Errors
    /// Where the build or the process has no CUDA graphs, what `work` fails with, and when it does something that
    /// can't be recorded, such as reading a number.
    pub fn record<E: From<TchError>>(work: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        let functions = functions()?;
        let mut recording = std::ptr::null_mut();
        // SAFETY: the place lives until the call returns.
        check(unsafe { (functions.begin)(&mut recording) })?;
        let graph = Self {
            functions,
            recording,
            not_send: PhantomData,
        };
        let worked = work();
        // SAFETY: the recording is what `begin` made. It is ended whatever came of the work, so that the stream is
        // free again.
        let ended = check(unsafe { (functions.end)(recording) });
        worked?;
        ended?;
        Ok(graph)
    }

    /// Does the work again, on what its tensors hold now. Numbers drawn at random come from the seed as it is now.
    ///
    /// # Errors
    /// CUDA's.
    pub fn replay(&mut self) -> Result<(), TchError> {
        // SAFETY: the recording is whole.
        check(unsafe { (self.functions.replay)(self.recording) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody else has the recording.
        unsafe { (self.functions.free)(self.recording) };
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

/// Whether graphs can be recorded in this process; the error says why not.
///
/// # Errors
/// Where the build has no graphs, or the library does not find libtorch_cuda.so's symbols.
pub fn is_available() -> Result<(), TchError> {
    functions().map(drop)
}

#[cfg(not(feature = "cuda-graphs"))]
fn functions() -> Result<Functions, TchError> {
    Err(TchError::Torch(
        "this build has no CUDA graphs: build it with `--features cuda-graphs`".to_owned(),
    ))
}

#[cfg(feature = "cuda-graphs")]
fn functions() -> Result<Functions, TchError> {
    use std::sync::OnceLock;

    static OPENED: OnceLock<Result<Functions, String>> = OnceLock::new();
    OPENED
        .get_or_init(|| open().map_err(|error| format!("CUDA graphs: {error}")))
        .clone()
        .map_err(TchError::Torch)
}

/// Opens the library from memory.
#[cfg(feature = "cuda-graphs")]
fn open() -> Result<Functions, Box<dyn std::error::Error>> {
    use std::{
        io::Write,
        os::fd::{AsRawFd, FromRawFd},
    };

    static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libsentune_cuda_graph.so"));
    // SAFETY: the name is a text that ends in a zero.
    let file = unsafe { libc::memfd_create(c"sentune_cuda_graph".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { std::fs::File::from_raw_fd(file) };
    file.write_all(LIBRARY)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the library is ours, and runs nothing when it is opened.
    let library = unsafe { libloading::Library::new(path) }?;
    // It stays open, and so do the functions.
    let library = Box::leak(Box::new(library));
    // SAFETY: the types are those of `cpp/cuda_graph.cpp`.
    unsafe {
        Ok(Functions {
            begin: *library.get(b"sentune_graph_begin\0")?,
            end: *library.get(b"sentune_graph_end\0")?,
            replay: *library.get(b"sentune_graph_replay\0")?,
            free: *library.get(b"sentune_graph_free\0")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuda_nothing_is_recorded_and_the_words_say_why() {
        if tch::Cuda::is_available() {
            return;
        }
        let mut has_run = false;
        let error = Graph::record(|| {
            has_run = true;
            Ok::<_, TchError>(())
        })
        .unwrap_err()
        .to_string();
        assert!(!has_run);
        let words = if AVAILABLE {
            // libtorch_cuda.so's symbols are not there.
            "CUDA graphs: "
        } else {
            "--features cuda-graphs"
        };
        assert!(error.contains(words), "{error}");
    }
}
