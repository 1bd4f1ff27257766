//! CUDA graphs: the kernels of a step, recorded once and launched as a whole.
//!
//! The C++ is `cpp/cuda_graph.cpp`, which needs CUDA's headers and so the feature `cuda-graphs`. It is a library that is
//! embedded in the program and opened at first use, after libtorch_cuda.so.

use std::{
    ffi::{c_char, c_void},
    marker::PhantomData,
};

use tch::TchError;

use crate::torch::check;

/// Whether the library is embedded in this build.
pub const AVAILABLE: bool = cfg!(feature = "cuda-graphs");

/// Functions of the library.
#[derive(Clone, Copy)]
struct Functions {
    begin: unsafe extern "C" fn(*mut *mut c_void) -> *mut c_char,
    end: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
    replay: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
    free: unsafe extern "C" fn(*mut c_void),
}

/// A recorded graph. Its tensors must stay at their addresses: each replay reads and writes their memory again.
pub struct Graph {
    functions: Functions,
    recording: *mut c_void,
    /// Marker: a graph belongs to the thread that made it, as CUDA's streams do.
    not_send: PhantomData<*mut c_void>,
}

impl Graph {
    /// Records the GPU work that `work` queues, without running it.
    ///
    /// # Errors
    /// If the build or the process has no CUDA graphs, if `work` fails, or if it does something that cannot be recorded,
    /// such as reading a number.
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
        // SAFETY: the recording was made by `begin`. It is ended even if the work failed, so that the stream is free
        // again.
        let ended = check(unsafe { (functions.end)(recording) });
        worked?;
        ended?;
        Ok(graph)
    }

    /// Runs the recorded work on the current content of its tensors. Random numbers follow from the current seed.
    ///
    /// # Errors
    /// Those of CUDA.
    pub fn replay(&mut self) -> Result<(), TchError> {
        // SAFETY: the recording is whole.
        check(unsafe { (self.functions.replay)(self.recording) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: this is the only handle of the recording.
        unsafe { (self.functions.free)(self.recording) };
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

/// Checks that graphs can be recorded in this process.
///
/// # Errors
/// If the build has no graphs, or the library does not find the symbols of libtorch_cuda.so.
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

/// Opens the library.
#[cfg(feature = "cuda-graphs")]
fn open() -> Result<Functions, Box<dyn std::error::Error>> {
    static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libsentune_cuda_graph.so"));
    let library = crate::embedded::open(c"sentune_cuda_graph", LIBRARY)?;
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
            // The symbols of libtorch_cuda.so are missing.
            "CUDA graphs: "
        } else {
            "--features cuda-graphs"
        };
        assert!(error.contains(words), "{error}");
    }
}
