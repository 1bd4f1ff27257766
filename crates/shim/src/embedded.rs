//! Libraries that are embedded in the program and opened out of memory, because not every libtorch has what they need.

use std::{
    error::Error,
    ffi::CStr,
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, FromRawFd},
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Opens a library for the rest of the process. `name` is what debuggers show.
///
/// # Errors
/// If a symbol that the library takes from libtorch is not there, and the system's.
pub(crate) fn open(name: &CStr, library: &[u8]) -> Result<&'static Library, Box<dyn Error>> {
    // SAFETY: the name is a text that ends in a zero.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let mut file = unsafe { File::from_raw_fd(file) };
    file.write_all(library)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // All symbols are looked up now: one that is missing would else end the process at its first use.
    // SAFETY: the library is ours, and has no initialisers.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }?;
    Ok(Box::leak(Box::new(library)))
}
