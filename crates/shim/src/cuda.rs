//! CUDA for a program that is linked to libtorch's CPU libraries only.
//!
//! libtorch registers its CUDA backend when `libtorch_cuda.so` is loaded, so a program can open that library at run time
//! if it is present. libtorch checks once whether CUDA is available and stores the answer, and many functions trigger the
//! check, such as seeding the generator: [`open`] must be called before any of them, at start-up.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tch::Cuda;

/// File name of libtorch's CUDA library.
pub const LIBRARY: &str = "libtorch_cuda.so";

/// File name of the library that every libtorch has.
const CPU_LIBRARY: &str = "libtorch_cpu.so";

/// Reason why CUDA cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The libtorch of this process has no CUDA library.
    #[error(
        "the libtorch in {} has no {LIBRARY}",
        .folder.as_deref().map_or("this process".into(), Path::to_string_lossy)
    )]
    NoLibrary {
        /// Folder of that libtorch, if it is known.
        folder: Option<PathBuf>,
    },
    /// The library, or one that it needs, could not be loaded.
    #[error("{} can't be loaded", .path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// Error of the dynamic loader.
        source: libloading::Error,
    },
    /// The machine has no NVIDIA driver.
    #[error("this machine has no NVIDIA driver (the loader finds no {DRIVER})")]
    NoDriver,
    /// The driver shows no device to libtorch.
    #[error(
        "the NVIDIA driver shows no device that this libtorch can use: CUDA_VISIBLE_DEVICES hides all, or the driver is older than the libtorch (`nvidia-smi` tells what it can)"
    )]
    NoDevice,
}

/// File name of the driver's library.
const DRIVER: &str = "libcuda.so.1";

/// Returns the folder of the libtorch that this process has loaded, or `None` if it cannot be determined.
pub fn libtorch_folder() -> Option<PathBuf> {
    folder_in(&fs::read_to_string("/proc/self/maps").ok()?)
}

/// Returns the folder of libtorch in a list of mapped files.
fn folder_in(maps: &str) -> Option<PathBuf> {
    // The path is what follows five columns, and may hold spaces.
    let path = |line: &str| Some(line[line.find('/')?..].to_owned());
    let mut paths = maps.lines().filter_map(path).map(PathBuf::from);
    let library = paths.find(|path| path.file_name().is_some_and(|name| name == CPU_LIBRARY))?;
    Some(library.parent()?.to_owned())
}

/// Opens libtorch's CUDA library, which lies beside the libtorch that this process has loaded, and returns the number of
/// devices, at least one. They can be used from then on.
///
/// Library and driver are checked first, since loading takes gigabytes.
///
/// # Errors
/// If the library, the driver or a device is missing.
pub fn open() -> Result<usize, CudaError> {
    let folder = libtorch_folder();
    let library = folder.as_ref().map(|folder| folder.join(LIBRARY));
    let Some(library) = library.filter(|library| library.exists()) else {
        return Err(CudaError::NoLibrary { folder });
    };
    if !has_driver() {
        return Err(CudaError::NoDriver);
    }
    load(&library)?;
    match usize::try_from(Cuda::device_count()) {
        Ok(n_devices) if n_devices > 0 => Ok(n_devices),
        _ => Err(CudaError::NoDevice),
    }
}

/// Whether the loader finds the driver.
pub fn has_driver() -> bool {
    open_library(Path::new(DRIVER)).is_ok()
}

/// Loads the CUDA library at `path` with global symbols, and never unloads it.
///
/// # Errors
/// Those of the dynamic loader.
pub fn load(path: &Path) -> Result<(), CudaError> {
    open_library(path).map_err(|source| CudaError::Load {
        path: path.to_owned(),
        source,
    })
}

#[cfg(unix)]
fn open_library(path: &Path) -> Result<(), libloading::Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    // SAFETY: loading runs the library's initialisers. Those of libtorch and of NVIDIA's driver support being loaded at
    // any time: Python's torch does the same when it is imported.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
    // libtorch keeps pointers into it until the process ends.
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(unix))]
fn open_library(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: as above.
    std::mem::forget(unsafe { libloading::Library::new(path) }?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_loaded_libtorch() {
        // Without a call, the linker may leave the library out.
        assert!(tch::get_num_threads() > 0);
        let folder = libtorch_folder().unwrap();
        assert!(folder.join(CPU_LIBRARY).exists(), "{}", folder.display());
    }

    #[test]
    fn a_path_may_hold_spaces() {
        let maps = "55d0-55d1 r--p 00000000 fe:00 12   /usr/bin/sentune\n\
                    7f00-7f01 rw-p 00000000 00:00 0 \n\
                    7f02-7f03 r-xp 0001 fe:00 13       /my libs/torch/lib/libtorch_cpu.so\n\
                    7ffe-7fff rw-p 00000000 00:00 0    [stack]\n";
        assert_eq!(folder_in(maps), Some("/my libs/torch/lib".into()));
        assert_eq!(folder_in("7f00-7f01 r--p 0 fe:00 1 /lib/libc.so.6\n"), None);
    }

    #[test]
    fn what_the_loader_says_is_kept() {
        let folder = std::env::temp_dir().join(format!("cuda-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(LIBRARY);
        fs::write(&path, "no library").unwrap();
        let error = load(&path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        fs::remove_dir_all(folder).unwrap();
        assert!(
            error
                .to_string()
                .contains("libtorch_cuda.so can't be loaded"),
            "{error}"
        );
        assert!(
            source.contains("too short") || source.contains("ELF"),
            "{source}"
        );
    }

    #[test]
    fn without_a_device_it_says_what_is_missing() {
        match open() {
            Ok(n_devices) => assert!(n_devices > 0),
            Err(CudaError::NoLibrary { folder }) => {
                assert!(!folder.unwrap().join(LIBRARY).exists());
            }
            Err(CudaError::NoDriver) => assert!(!Path::new("/proc/driver/nvidia/version").exists()),
            Err(error) => assert!(has_driver(), "{error}"),
        }
    }
}
