//! Ranks: how this process was started as one of several that train together.
//!
//! torchrun, mpiexec and Slurm give each process its number in environment variables. Without them, or with one process, a
//! run is one process, which opens no socket.

use std::{
    collections::BTreeMap,
    io::Read,
    net::TcpStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;
use shim::ranks::Server;
use signal_hook::{consts::SIGTERM, low_level};
use toml::Table;
use train::{Facts, Group, Lost, Meeting, Watcher};

use crate::{
    flags::train::{TrainCall, TrainFlags},
    session::Session,
    usage::UsageError,
};

/// Address of the process that started all ranks, `sentune train --processes`.
pub(crate) const PARENT: &str = "SENTUNE_PARENT";
/// Set for the rank whose stdin is the socket that ranks meet at.
pub(crate) const SOCKET: &str = "SENTUNE_RANK_SOCKET";
/// A name of the run that the ranks are of.
pub(crate) const JOB: &str = "SENTUNE_JOB";

/// The time in which a rank has to end by itself after another is gone.
const GRACE: Duration = Duration::from_secs(6);

/// How a process was started.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Launch {
    /// Its place among several ranks.
    pub(crate) place: Option<Place>,
    /// How often torchrun has started all ranks anew.
    n_restarts: u64,
    /// File for the error, which torchrun shows.
    error_file: Option<PathBuf>,
}

/// The place of a process among several ranks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// Its number among the ranks of this machine, where the launcher says so.
    pub(crate) local_rank: Option<usize>,
    /// The number of ranks of this machine, where the launcher says so.
    pub(crate) local_size: Option<usize>,
    host: String,
    port: u16,
    server: Server,
    attempt: String,
    job: String,
    interface: Option<String>,
    parent: Option<String>,
}

/// The variables of a launcher.
struct Variables {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

/// torchrun, whose names others use too; MPICH and Intel MPI; Open MPI.
const LAUNCHERS: [Variables; 3] = [
    Variables {
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
    Variables {
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
    },
    Variables {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
];

/// torch's own port.
const PORT: u16 = 29500;

impl Launch {
    /// Reads the environment.
    ///
    /// # Errors
    /// If variables are missing or contradict each other.
    pub(crate) fn of_environment() -> Result<Self, UsageError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, UsageError> {
        Ok(Self {
            place: Place::read(&Environment { variable })?,
            n_restarts: Environment { variable }
                .number("TORCHELASTIC_RESTART_COUNT")?
                .unwrap_or(0),
            error_file: variable("TORCHELASTIC_ERROR_FILE").map(PathBuf::from),
        })
    }

    /// The number of ranks that this process is to start, where it is no rank itself.
    ///
    /// # Errors
    /// If another launcher has started ranks already.
    pub(crate) fn processes_to_start(&self, call: &TrainCall) -> Result<Option<usize>, UsageError> {
        let n = call.processes.map(usize::from).filter(|&n| n > 1);
        match (n, &self.place) {
            (Some(n), None) => Ok(Some(n)),
            (Some(n), Some(place)) if place.parent.is_none() => Err(UsageError(format!(
                "--processes {n} starts ranks, and this process is rank {} of {} already: leave the flag out",
                place.rank, place.size
            ))),
            _ => Ok(None),
        }
    }

    /// Whether torchrun has started the ranks anew after a failure.
    pub(crate) fn is_restart(&self) -> bool {
        self.n_restarts > 0
    }

    /// Writes an error where torchrun looks for it, in its form.
    pub(crate) fn report(&self, error: &anyhow::Error) {
        let Some(path) = &self.error_file else {
            return;
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.map_or(0, |time| time.as_secs());
        let report = json!({"message": {
            "message": format!("sentune: {error:#}"),
            "extraInfo": {"py_callstack": "", "timestamp": seconds.to_string()},
        }});
        if let Err(problem) = fs_err::write(path, report.to_string()) {
            tracing::warn!("{problem}");
        }
    }
}

/// The variables of the environment.
struct Environment<'v> {
    variable: &'v dyn Fn(&str) -> Option<String>,
}

impl Environment<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, UsageError> {
        let number = self.get(name).map(|text| {
            text.parse()
                .map_err(|_| UsageError(format!("{name} is `{text}`: it must be a whole number")))
        });
        number.transpose()
    }
}

impl Place {
    /// `None` for one process.
    fn read(environment: &Environment<'_>) -> Result<Option<Self>, UsageError> {
        let slurm = Slurm { environment };
        let launcher = LAUNCHERS
            .iter()
            .find(|names| environment.get(names.rank).is_some());
        let (rank, size) = match launcher {
            Some(names) => {
                let rank: usize = environment.number(names.rank)?.unwrap_or(0);
                let size = environment.number(names.size)?.ok_or_else(|| {
                    UsageError(format!(
                        "{} is {rank} and {} is not set: a launcher sets both; unset {0} to train in one process",
                        names.rank, names.size
                    ))
                })?;
                if rank >= size {
                    return Err(UsageError(format!(
                        "{} is {rank}: it must be below {}, which is {size}",
                        names.rank, names.size
                    )));
                }
                (rank, size)
            }
            None => match slurm.rank()? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        if size == 1 {
            return Ok(None);
        }
        let (mut local_rank, mut local_size) = (slurm.local_rank()?, slurm.local_size()?);
        if let Some(names) = launcher {
            local_rank = environment.number(names.local_rank)?.or(local_rank);
            local_size = environment.number(names.local_size)?.or(local_size);
        }
        let host = environment
            .get("MASTER_ADDR")
            .or_else(|| (local_size == Some(size)).then(|| "127.0.0.1".to_owned()))
            .or_else(|| slurm.first_host())
            .ok_or_else(|| {
                UsageError(format!(
                    "rank {rank} of {size} knows no MASTER_ADDR: set it to the name or address of rank 0's machine, the same for all ranks"
                ))
            })?;
        let is_served = environment.get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let server = match (is_served, rank) {
            (false, 0) if environment.get(SOCKET).is_some() => Server::Inherited(0),
            (false, 0) => Server::Own,
            _ => Server::Other,
        };
        let job = ["TORCHELASTIC_RUN_ID", JOB];
        let job = job.iter().find_map(|name| environment.get(name));
        Ok(Some(Self {
            rank,
            size,
            local_rank,
            local_size,
            host,
            port: match environment.number("MASTER_PORT")? {
                Some(port) => port,
                None => slurm.port()?.unwrap_or(PORT),
            },
            server,
            attempt: environment
                .get("TORCHELASTIC_RESTART_COUNT")
                .unwrap_or_else(|| "0".to_owned()),
            job: job.or_else(|| slurm.job()).unwrap_or_default(),
            interface: environment.get("GLOO_SOCKET_IFNAME"),
            parent: environment.get(PARENT),
        }))
    }

    /// Meets the other ranks, which have to be started with the same flags. From then on the process ends soon after
    /// another rank is gone.
    ///
    /// # Errors
    /// If they do not come, or differ.
    pub(crate) fn join(&self, flags: &TrainFlags, session: &Session) -> anyhow::Result<Group> {
        let place = format!("{}:{}", self.host, self.port);
        tracing::info!(
            "rank {} of {} meets the others at {place}",
            self.rank,
            self.size
        );
        self.follow_parent(session);
        let meeting = Meeting {
            rank: self.rank,
            size: self.size,
            host: self.host.clone(),
            port: self.port,
            server: self.server,
            attempt: self.attempt.clone(),
            interface: self.interface.clone(),
            timeout: Duration::from_secs(flags.call.ddp_timeout),
        };
        let group = Group::join(&meeting, &self.facts(flags)?)?;
        end_after_loss(group.watcher(), session);
        Ok(group)
    }

    /// Facts that all ranks have to agree in before they begin.
    fn facts(&self, flags: &TrainFlags) -> anyhow::Result<Facts> {
        let mut facts = BTreeMap::from([
            (
                "version of sentune".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            ("number of ranks".to_owned(), self.size.to_string()),
            ("job".to_owned(), self.job.clone()),
        ]);
        for (key, value) in Table::try_from(flags)? {
            facts.insert(format!("--{key}"), value.to_string());
        }
        Ok(facts)
    }

    /// Stops as by a signal where the process that started all ranks is asked to, or is gone.
    fn follow_parent(&self, session: &Session) {
        let Some(Ok(mut parent)) = self.parent.as_ref().map(TcpStream::connect) else {
            return;
        };
        let interrupt = session.interrupt.clone();
        thread::spawn(move || {
            let mut signal = [SIGTERM as u8];
            // Nothing is read where it is gone.
            let _ = parent.read(&mut signal);
            interrupt.raise(signal[0]);
        });
    }
}

/// Ends the process where a rank is gone and the work does not end by itself.
fn end_after_loss(watcher: Watcher, session: &Session) {
    let talk = session.talk.clone();
    thread::spawn(move || {
        let mut since: Option<(Instant, Lost)> = None;
        loop {
            thread::sleep(Duration::from_millis(100));
            match &since {
                None => since = watcher.lost().map(|lost| (Instant::now(), lost)),
                Some((instant, lost)) if instant.elapsed() > GRACE => {
                    talk.error(&anyhow::Error::from(lost.clone()));
                    // Without the destructors of what is still running.
                    low_level::exit(1);
                }
                Some(_) => {}
            }
        }
    });
}

/// The variables of a step of Slurm's (`srun`). A batch script alone, which has some of them too, is one process.
struct Slurm<'e> {
    environment: &'e Environment<'e>,
}

impl Slurm<'_> {
    fn rank(&self) -> Result<Option<(usize, usize)>, UsageError> {
        let rank = self.environment.number("SLURM_PROCID")?;
        Ok(rank.zip(self.environment.number("SLURM_STEP_NUM_TASKS")?))
    }

    fn local_rank(&self) -> Result<Option<usize>, UsageError> {
        self.environment.number("SLURM_LOCALID")
    }

    /// The ranks of this machine, of a list such as `2(x3),1`.
    fn local_size(&self) -> Result<Option<usize>, UsageError> {
        let node: Option<usize> = self.environment.number("SLURM_NODEID")?;
        let (Some(list), Some(node)) = (self.environment.get("SLURM_STEP_TASKS_PER_NODE"), node)
        else {
            return Ok(None);
        };
        let mut sizes = Vec::new();
        for part in list.split(',') {
            let (size, times) = match part.split_once("(x") {
                Some((size, times)) => (size, times.trim_end_matches(')')),
                None => (part, "1"),
            };
            let (Ok(size), Ok(times)) = (size.parse::<usize>(), times.parse::<usize>()) else {
                return Ok(None);
            };
            sizes.extend(std::iter::repeat_n(size, times));
        }
        Ok(sizes.get(node).copied())
    }

    /// The first of a list of machines such as `node[03-05,9],other`, on which rank 0 is.
    fn first_host(&self) -> Option<String> {
        let list = self.environment.get("SLURM_STEP_NODELIST")?;
        let first = match list.split_once('[') {
            Some((name, numbers)) if !name.contains(',') => {
                let first = numbers.split([',', '-', ']']).next()?;
                format!("{name}{first}")
            }
            _ => list.split(',').next()?.to_owned(),
        };
        Some(first)
    }

    /// A port that other jobs on the machine hardly have.
    fn port(&self) -> Result<Option<u16>, UsageError> {
        let job: Option<u64> = self.environment.number("SLURM_JOB_ID")?;
        Ok(job.map(|job| PORT + (job % 4000) as u16))
    }

    fn job(&self) -> Option<String> {
        let job = self.environment.get("SLURM_JOB_ID")?;
        let step = self.environment.get("SLURM_STEP_ID").unwrap_or_default();
        Some(format!("{job}.{step}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Launch, String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Launch::read(&find).map_err(|error| error.to_string())
    }

    fn place(variables: &[(&str, &str)]) -> Place {
        read(variables).unwrap().place.unwrap()
    }

    #[test]
    fn without_a_launcher_or_with_one_process_there_are_no_ranks() {
        for variables in [
            &[][..],
            &[("RANK", "0"), ("WORLD_SIZE", "1")],
            // A shell of Slurm's, and a batch script that is to start several tasks.
            &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
            &[("MASTER_ADDR", "x"), ("LOCAL_RANK", "3")],
        ] {
            assert_eq!(read(variables).unwrap(), Launch::default(), "{variables:?}");
        }
    }

    #[test]
    fn torchrun_serves_the_store_and_tells_of_restarts() {
        let variables = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node1"),
            ("MASTER_PORT", "1234"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("TORCHELASTIC_RUN_ID", "run"),
            ("TORCHELASTIC_ERROR_FILE", "/x/error.json"),
            ("GLOO_SOCKET_IFNAME", "eth1"),
        ];
        let launch = read(&variables).unwrap();
        assert!(launch.is_restart());
        assert_eq!(launch.error_file, Some("/x/error.json".into()));
        let expected = Place {
            rank: 3,
            size: 4,
            local_rank: Some(1),
            local_size: Some(2),
            host: "node1".to_owned(),
            port: 1234,
            server: Server::Other,
            attempt: "2".to_owned(),
            job: "run".to_owned(),
            interface: Some("eth1".to_owned()),
            parent: None,
        };
        assert_eq!(launch.place, Some(expected));
        let mut first = variables;
        first[0] = ("RANK", "0");
        assert_eq!(place(&first).server, Server::Other);
    }

    #[test]
    fn rank_0_serves_the_store_where_the_launcher_does_not() {
        let both = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node1")];
        assert_eq!(place(&both).server, Server::Own);
        assert_eq!(place(&both).port, PORT);
        let inherited = [&both[..], &[(SOCKET, "stdin"), (PARENT, "127.0.0.1:1")]].concat();
        assert_eq!(place(&inherited).server, Server::Inherited(0));
        assert!(place(&inherited).parent.is_some());
    }

    #[test]
    fn mpi_needs_no_address_on_one_machine() {
        let mpich = [
            ("PMI_RANK", "1"),
            ("PMI_SIZE", "2"),
            ("MPI_LOCALRANKID", "1"),
            ("MPI_LOCALNRANKS", "2"),
        ];
        let found = place(&mpich);
        assert_eq!((found.rank, found.size, found.local_size), (1, 2, Some(2)));
        assert_eq!(found.host, "127.0.0.1");
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        let error = read(&open_mpi).unwrap_err();
        assert!(
            error.contains("rank 2 of 4 knows no MASTER_ADDR"),
            "{error}"
        );
        let found = place(&[&open_mpi[..], &[("MASTER_ADDR", "10.0.0.1")]].concat());
        assert_eq!((found.rank, found.local_rank), (2, Some(0)));
    }

    #[test]
    fn slurm_names_the_first_machine_and_its_tasks() {
        let step = [
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_NUM_TASKS", "7"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "2"),
            ("SLURM_STEP_TASKS_PER_NODE", "2(x3),1"),
            ("SLURM_STEP_NODELIST", "gpu[03-05,09],other"),
            ("SLURM_JOB_ID", "123456"),
            ("SLURM_STEP_ID", "0"),
        ];
        let found = place(&step);
        assert_eq!((found.rank, found.size), (5, 7));
        assert_eq!((found.local_rank, found.local_size), (Some(1), Some(2)));
        assert_eq!((found.host.as_str(), found.port), ("gpu03", 29500 + 3456));
        assert_eq!(found.job, "123456.0");
        for (list, first) in [("a", "a"), ("a,b[1-2]", "a"), ("b[7]", "b7")] {
            let mut step = step;
            step[5].1 = list;
            assert_eq!(place(&step).host, first);
        }
    }

    #[test]
    fn wrong_variables_are_named() {
        for (variables, words) in [
            (&[("RANK", "1")][..], "RANK is 1 and WORLD_SIZE is not set"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2")], "RANK is `x`"),
            (
                &[("RANK", "2"), ("WORLD_SIZE", "2")],
                "it must be below WORLD_SIZE, which is 2",
            ),
            (&[("PMI_RANK", "0")], "PMI_SIZE is not set"),
        ] {
            let error = read(variables).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
