//! Ranks: the processes that train one model together.
//!
//! A [`Store`] has the keys by which ranks find each other, [`Ranks`] the operations that all of them take part in: c10d's
//! gloo, which is inside libtorch. The C++ is `cpp/ranks.cpp`, a library that is embedded in the program and opened where
//! there is more than one rank, so that a libtorch without distributed serves runs of one process.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    time::Duration,
};

use tch::{Device, TchError, Tensor};

use crate::torch::check;

/// An error of a store or of ranks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RanksError {
    /// The libtorch in use has no gloo.
    #[error(
        "several ranks take a libtorch that was built with distributed, as the one of `cargo xtask setup` is, and this one was not: {0}"
    )]
    NoLibrary(String),
    /// An operation failed: another rank is gone or late, or the network is.
    #[error("{operation}: {words}")]
    Failed {
        /// The operation.
        operation: &'static str,
        /// libtorch's words.
        words: String,
    },
    /// A tensor can't be copied from or to its device.
    #[error("libtorch")]
    Torch(#[from] TchError),
}

/// The keys that all ranks see, in the memory of the rank or the agent that serves them over TCP.
#[derive(Debug)]
pub struct Store {
    functions: Functions,
    store: *mut c_void,
}

/// The server of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// This process, at the store's port.
    Own,
    /// This process, on a socket that is bound and inherited, by its number.
    Inherited(c_int),
    /// Another process.
    Other,
}

/// The name of a store in errors.
const STORE: &str = "the store of the ranks, which rank 0 or the launcher serves";

impl Store {
    /// Opens the store at `host` and `port`, and where it is served by another process waits until it is there. All keys
    /// get `prefix` before them.
    ///
    /// # Errors
    /// If the port is taken, or the server is not there within `timeout`, which later waits have too.
    pub fn open(
        (host, port): (&str, u16),
        server: Server,
        prefix: &str,
        timeout: Duration,
    ) -> Result<Self, RanksError> {
        let functions = functions()?;
        let (host, prefix) = (text(host)?, text(prefix)?);
        let listener = match server {
            Server::Inherited(listener) => listener,
            Server::Own | Server::Other => -1,
        };
        let mut store = std::ptr::null_mut();
        // SAFETY: the texts end in a zero, and they and the place live until the call returns.
        let opened = unsafe {
            (functions.open)(
                host.as_ptr(),
                port,
                server != Server::Other,
                listener,
                prefix.as_ptr(),
                milliseconds(timeout),
                &mut store,
            )
        };
        done(STORE, opened)?;
        Ok(Self { functions, store })
    }

    /// Sets a key.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), RanksError> {
        let key = text(key)?;
        // SAFETY: key and value live until the call returns.
        done(STORE, unsafe {
            (self.functions.set)(self.store, key.as_ptr(), value.as_ptr(), value.len())
        })
    }

    /// Whether a key is set.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn has(&self, key: &str) -> Result<bool, RanksError> {
        let key = text(key)?;
        let mut has = false;
        // SAFETY: key and place live until the call returns.
        done(STORE, unsafe {
            (self.functions.has)(self.store, key.as_ptr(), &mut has)
        })?;
        Ok(has)
    }

    /// The value of a key, which is waited for where it is not set yet.
    ///
    /// # Errors
    /// If the server is gone, or nobody sets the key in time.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, RanksError> {
        let key = text(key)?;
        let (mut value, mut n) = (std::ptr::null_mut(), 0);
        // SAFETY: key and places live until the call returns.
        done(STORE, unsafe {
            (self.functions.get)(self.store, key.as_ptr(), &mut value, &mut n)
        })?;
        // SAFETY: after a success `n` bytes lie there, which are ours to free.
        let bytes = unsafe { std::slice::from_raw_parts(value.cast::<u8>(), n) }.to_vec();
        // SAFETY: the memory was made by `malloc`, and is not used any more.
        unsafe { crate::torch::sentune_free(value) };
        Ok(bytes)
    }

    /// Adds to the number of a key, which is zero at first, and returns the sum.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, RanksError> {
        let key = text(key)?;
        let mut sum = 0;
        // SAFETY: key and place live until the call returns.
        done(STORE, unsafe {
            (self.functions.add)(self.store, key.as_ptr(), amount, &mut sum)
        })?;
        Ok(sum)
    }
}

// SAFETY: c10d locks each operation of a store, and none of them belongs to a thread.
unsafe impl Send for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: this is the only handle of the store.
        unsafe { (self.functions.close)(self.store) };
    }
}

/// This process among the ranks of a run. Every rank has to call the same methods in the same order, with tensors of the
/// same shape and kind. Tensors on a GPU are copied to the host and back.
#[derive(Debug)]
pub struct Ranks {
    functions: Functions,
    group: *mut c_void,
    rank: usize,
    size: usize,
}

impl Ranks {
    /// Connects every rank with every other by way of the store. This one listens on `address`, or on `interface`, one of
    /// the machine's networks, where that is given. An operation fails after `timeout` without another rank.
    ///
    /// # Errors
    /// If a rank does not come in time, or can't be reached.
    pub fn connect(
        store: &Store,
        (rank, size): (usize, usize),
        address: &str,
        interface: Option<&str>,
        timeout: Duration,
    ) -> Result<Self, RanksError> {
        let functions = store.functions;
        let (address, interface) = (text(address)?, text(interface.unwrap_or_default())?);
        let mut group = std::ptr::null_mut();
        // SAFETY: the store lives, as do the texts and the place, until the call returns.
        let connected = unsafe {
            (functions.connect)(
                store.store,
                rank as c_int,
                size as c_int,
                address.as_ptr(),
                interface.as_ptr(),
                milliseconds(timeout),
                &mut group,
            )
        };
        done("the connection of the ranks", connected)?;
        Ok(Self {
            functions,
            group,
            rank,
            size,
        })
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Replaces a contiguous tensor of floats by its mean over all ranks, the same bits on each.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn mean(&self, tensor: &Tensor) -> Result<(), RanksError> {
        let host = self.on_host(tensor)?;
        // SAFETY: the pointer is that of an at::Tensor that lives until the call returns; tch's own `f_*_` methods
        // change tensors through such pointers too.
        done("the mean over the ranks", unsafe {
            (self.functions.mean)(self.group, host.as_ptr().cast())
        })?;
        put_back(tensor, &host)
    }

    /// The tensors of all ranks in the order of ranks, `[ranks, ...]`.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn gather(&self, own: &Tensor) -> Result<Tensor, RanksError> {
        let host = self.on_host(own)?.f_contiguous()?;
        let all = Tensor::f_empty(self.shape_of_all(own), (own.kind(), Device::Cpu))?;
        // SAFETY: as in `mean`.
        done("the gathering from the ranks", unsafe {
            (self.functions.gather)(self.group, host.as_ptr().cast(), all.as_ptr().cast())
        })?;
        Ok(all.f_to_device(own.device())?)
    }

    /// The sum over all ranks of this rank's part of `all`, `[ranks, ...]`.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn scatter_sum(&self, all: &Tensor) -> Result<Tensor, RanksError> {
        let host = self.on_host(all)?.f_contiguous()?;
        let own = Tensor::f_empty(&all.size()[1..], (all.kind(), Device::Cpu))?;
        // SAFETY: as in `mean`.
        done("the sum over the ranks", unsafe {
            (self.functions.scatter_sum)(self.group, host.as_ptr().cast(), own.as_ptr().cast())
        })?;
        Ok(own.f_to_device(all.device())?)
    }

    /// Replaces a contiguous tensor by that of rank 0.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn broadcast(&self, tensor: &Tensor) -> Result<(), RanksError> {
        let host = self.on_host(tensor)?;
        // SAFETY: as in `mean`.
        done("the broadcast from rank 0", unsafe {
            (self.functions.broadcast)(self.group, host.as_ptr().cast())
        })?;
        put_back(tensor, &host)
    }

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// If a rank is gone or late.
    pub fn barrier(&self) -> Result<(), RanksError> {
        // SAFETY: the group lives.
        done("the wait for all ranks", unsafe {
            (self.functions.barrier)(self.group)
        })
    }

    fn on_host(&self, tensor: &Tensor) -> Result<Tensor, RanksError> {
        Ok(match tensor.device() {
            Device::Cpu => tensor.f_detach()?,
            _ => tensor.f_detach()?.f_to_device(Device::Cpu)?,
        })
    }

    fn shape_of_all(&self, own: &Tensor) -> Vec<i64> {
        let mut shape = vec![self.size as i64];
        shape.extend(own.size());
        shape
    }
}

// SAFETY: the group's work is done by threads of its own, and no operation belongs to the one that asks for it.
unsafe impl Send for Ranks {}

impl Drop for Ranks {
    fn drop(&mut self) {
        // SAFETY: this is the only handle of the group.
        unsafe { (self.functions.leave)(self.group) };
    }
}

/// Copies a result back to where its input came from, if that is elsewhere.
fn put_back(tensor: &Tensor, host: &Tensor) -> Result<(), RanksError> {
    if tensor.device() != Device::Cpu {
        tch::no_grad(|| tensor.shallow_clone().f_copy_(host))?;
    }
    Ok(())
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn text(text: &str) -> Result<CString, RanksError> {
    CString::new(text).map_err(|error| RanksError::Failed {
        operation: "a text with a zero byte in it",
        words: error.to_string(),
    })
}

/// Converts the return value of one of our C++ functions to a result.
fn done(operation: &'static str, returned: *mut c_char) -> Result<(), RanksError> {
    check(returned).map_err(|error| {
        let words = match error {
            TchError::Torch(words) => words,
            other => other.to_string(),
        };
        RanksError::Failed {
            operation,
            // What follows the first line is where in libtorch it was thrown.
            words: words.lines().next().unwrap_or_default().to_owned(),
        }
    })
}

/// Functions of the library.
#[derive(Debug, Clone, Copy)]
struct Functions {
    open: unsafe extern "C" fn(
        *const c_char,
        u16,
        bool,
        c_int,
        *const c_char,
        i64,
        *mut *mut c_void,
    ) -> *mut c_char,
    close: unsafe extern "C" fn(*mut c_void),
    set: unsafe extern "C" fn(*mut c_void, *const c_char, *const u8, usize) -> *mut c_char,
    has: unsafe extern "C" fn(*mut c_void, *const c_char, *mut bool) -> *mut c_char,
    get: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        *mut *mut c_char,
        *mut usize,
    ) -> *mut c_char,
    add: unsafe extern "C" fn(*mut c_void, *const c_char, i64, *mut i64) -> *mut c_char,
    connect: unsafe extern "C" fn(
        *mut c_void,
        c_int,
        c_int,
        *const c_char,
        *const c_char,
        i64,
        *mut *mut c_void,
    ) -> *mut c_char,
    leave: unsafe extern "C" fn(*mut c_void),
    mean: unsafe extern "C" fn(*mut c_void, *const c_void) -> *mut c_char,
    gather: unsafe extern "C" fn(*mut c_void, *const c_void, *const c_void) -> *mut c_char,
    scatter_sum: unsafe extern "C" fn(*mut c_void, *const c_void, *const c_void) -> *mut c_char,
    broadcast: unsafe extern "C" fn(*mut c_void, *const c_void) -> *mut c_char,
    barrier: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
}

#[cfg(not(target_os = "linux"))]
fn functions() -> Result<Functions, RanksError> {
    let words = "ranks are for Linux".to_owned();
    Err(RanksError::NoLibrary(words))
}

#[cfg(target_os = "linux")]
fn functions() -> Result<Functions, RanksError> {
    use std::sync::OnceLock;

    static OPENED: OnceLock<Result<Functions, String>> = OnceLock::new();
    OPENED
        .get_or_init(|| open().map_err(|error| error.to_string()))
        .clone()
        .map_err(RanksError::NoLibrary)
}

/// Opens the library.
#[cfg(target_os = "linux")]
fn open() -> Result<Functions, Box<dyn std::error::Error>> {
    static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libsentune_ranks.so"));
    if LIBRARY.is_empty() {
        return Err("it was not there when this program was built either".into());
    }
    let library = crate::embedded::open(c"sentune_ranks", LIBRARY)?;
    // SAFETY: the types are those of `cpp/ranks.cpp`.
    unsafe {
        Ok(Functions {
            open: *library.get(b"sentune_store_open\0")?,
            close: *library.get(b"sentune_store_close\0")?,
            set: *library.get(b"sentune_store_set\0")?,
            has: *library.get(b"sentune_store_has\0")?,
            get: *library.get(b"sentune_store_get\0")?,
            add: *library.get(b"sentune_store_add\0")?,
            connect: *library.get(b"sentune_ranks_connect\0")?,
            leave: *library.get(b"sentune_ranks_leave\0")?,
            mean: *library.get(b"sentune_ranks_mean\0")?,
            gather: *library.get(b"sentune_ranks_gather\0")?,
            scatter_sum: *library.get(b"sentune_ranks_scatter_sum\0")?,
            broadcast: *library.get(b"sentune_ranks_broadcast\0")?,
            barrier: *library.get(b"sentune_ranks_barrier\0")?,
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{net::TcpListener, os::fd::IntoRawFd, thread};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// Results of `work` on each of `size` ranks, which are threads here.
    fn on_ranks<T: Send + 'static>(
        size: usize,
        work: impl Fn(&Ranks, &Store) -> T + Send + Sync + Copy + 'static,
    ) -> Vec<T> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = listener.into_raw_fd();
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                thread::spawn(move || {
                    let server = match rank {
                        0 => Server::Inherited(listener),
                        _ => Server::Other,
                    };
                    let store = Store::open(("127.0.0.1", port), server, "test", TIMEOUT).unwrap();
                    let ranks =
                        Ranks::connect(&store, (rank, size), "127.0.0.1", None, TIMEOUT).unwrap();
                    let result = work(&ranks, &store);
                    // The server goes with its rank.
                    ranks.barrier().unwrap();
                    result
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect()
    }

    fn floats(tensor: &Tensor) -> Vec<f32> {
        Vec::<f32>::try_from(tensor.reshape([-1])).unwrap()
    }

    #[test]
    fn two_and_three_ranks_compute_together() {
        for size in [2, 3] {
            let results = on_ranks(size, |ranks, store| {
                let (rank, size) = (ranks.rank() as f32, ranks.size() as i64);
                let tensor = Tensor::from_slice(&[rank, 10.0 * rank, 1.0]);
                // A part of a tensor is as good as a whole one.
                let mean = tensor.copy();
                ranks.mean(&mean.narrow(0, 0, 2)).unwrap();
                let all = ranks.gather(&tensor).unwrap();
                assert_eq!(all.size(), [size, 3]);
                let parts = Tensor::arange(size * 2, (tch::Kind::Float, Device::Cpu));
                let sum = ranks.scatter_sum(&parts.view([size, 2])).unwrap();
                let first = tensor.copy();
                ranks.broadcast(&first).unwrap();
                assert_eq!(floats(&first), [0.0, 0.0, 1.0]);
                store.add("sum", 1 + rank as i64).unwrap();
                ranks.barrier().unwrap();
                assert_eq!(store.add("sum", 0).unwrap(), size * (size + 1) / 2);
                assert_eq!(
                    floats(&sum),
                    [2.0 * rank, 2.0 * rank + 1.0].map(|x| x * size as f32)
                );
                (floats(&mean), floats(&all))
            });
            let half = (size - 1) as f32 / 2.0;
            for (mean, all) in results {
                assert_eq!(mean, [half, 10.0 * half, 1.0]);
                assert_eq!(all[..6], [0.0, 0.0, 1.0, 1.0, 10.0, 1.0]);
            }
        }
    }

    #[test]
    fn keys_are_bytes_and_a_missing_one_is_told() {
        on_ranks(2, |ranks, store| {
            if ranks.rank() == 0 {
                store.set("key", b"a\0b").unwrap();
            }
            assert_eq!(store.get("key").unwrap(), b"a\0b");
            assert!(store.has("key").unwrap());
            assert!(!store.has("other").unwrap());
        });
    }

    #[test]
    fn a_rank_that_does_not_come_is_an_error_in_time() {
        let store = Store::open(
            ("127.0.0.1", free_port()),
            Server::Own,
            "test",
            Duration::from_secs(1),
        );
        let store = store.unwrap();
        let limit = Duration::from_millis(500);
        let error = Ranks::connect(&store, (0, 2), "127.0.0.1", None, limit).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the connection of the ranks: "),
            "{error}"
        );
        let error = store.get("missing").unwrap_err();
        assert!(error.to_string().contains("store of the ranks"), "{error}");
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }
}
