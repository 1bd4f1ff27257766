//! Observers of a run: JSON lines on stdout, and where the time of a step goes.

use std::{path::PathBuf, time::Instant};

use kernels::profile;
use serde_json::{Map, Value, json};
use train::{
    TrainError,
    events::{Event, Memory, Observer},
};

use crate::output::print_json;

/// The seconds that the parts of the start took, one after the other.
pub(super) struct Laps {
    last: Instant,
    seconds: Map<String, Value>,
}

impl Laps {
    pub(super) fn start() -> Self {
        Self {
            last: Instant::now(),
            seconds: Map::new(),
        }
    }

    /// Ends the part `name`; the next one begins.
    pub(super) fn end(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.seconds.insert(name.to_owned(), json!(seconds));
        self.last = now;
    }
}

/// Prints the begin of the training and every log entry as JSON lines.
pub(super) struct JsonLines {
    laps: Laps,
    /// Rows of the steps since the last line.
    n_rows: usize,
    n_tokens: usize,
    memory: Option<Memory>,
}

impl JsonLines {
    pub(super) fn new(laps: Laps) -> Self {
        Self {
            laps,
            n_rows: 0,
            n_tokens: 0,
            memory: None,
        }
    }
}

impl Observer for JsonLines {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin(plan) => print_json(&json!({
                "type": "begin",
                "n_rows": plan.n_rows,
                "n_steps": plan.n_steps,
                "n_parameters": plan.n_parameters,
                "device_flops": plan.device_flops,
                "seconds": self.laps.seconds,
            }))?,
            Event::Step(step) => {
                self.n_rows += step.n_rows;
                self.n_tokens += step.n_tokens;
                self.memory = step.device_memory;
            }
            Event::Log(entry) => {
                let mut line = Map::new();
                line.insert("type".to_owned(), json!("log"));
                line.extend((*entry).clone());
                if entry.contains_key("loss") {
                    line.insert("n_rows".to_owned(), json!(self.n_rows));
                    line.insert("n_tokens".to_owned(), json!(self.n_tokens));
                    (self.n_rows, self.n_tokens) = (0, 0);
                    if let Some(memory) = self.memory {
                        line.insert("device_memory_reserved".to_owned(), json!(memory.reserved));
                        line.insert("device_memory_peak".to_owned(), json!(memory.peak));
                    }
                }
                print_json(&line)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Writes at the end where the time of a step went, for the report, and logs it if asked to. The first steps, in which
/// buffers grow, don't count.
pub(super) struct Profile {
    path: PathBuf,
    is_logged: bool,
    is_json: bool,
    /// When the last step ended, once the stopwatch runs.
    last: Option<Instant>,
    seconds: f64,
    n_steps: usize,
}

impl Profile {
    /// Steps before the stopwatch starts.
    const N_WARMUP: u64 = 2;

    pub(super) fn new(path: PathBuf, is_logged: bool, is_json: bool) -> Self {
        Self {
            path,
            is_logged,
            is_json,
            last: None,
            seconds: 0.0,
            n_steps: 0,
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        match self.last {
            Some(last) => {
                self.seconds += (now - last).as_secs_f64();
                self.n_steps += 1;
            }
            None => profile::start(),
        }
        self.last = Some(now);
    }

    /// The parts with their milliseconds a step, and at last what no part has counted.
    fn parts(&self) -> Vec<(&'static str, f64)> {
        let per_step = |seconds: f64| 1e3 * seconds / self.n_steps as f64;
        let mut parts: Vec<(&str, f64)> = profile::stop()
            .into_iter()
            .map(|(part, time)| (part.name(), per_step(time.as_secs_f64())))
            .collect();
        let counted: f64 = parts.iter().map(|(_, milliseconds)| milliseconds).sum();
        parts.push(("rest", per_step(self.seconds) - counted));
        parts
    }

    fn tell(&self) -> Result<(), TrainError> {
        let parts = self.parts();
        let total: f64 = parts.iter().map(|(_, milliseconds)| milliseconds).sum();
        let by_name: Map<String, Value> = parts
            .iter()
            .map(|(name, milliseconds)| ((*name).to_owned(), json!(milliseconds)))
            .collect();
        let line = json!({"type": "profile", "n_steps": self.n_steps, "milliseconds_per_step": total, "parts": by_name});
        // The report does without.
        if let Err(error) = fs_err::write(&self.path, line.to_string()) {
            tracing::warn!("{error}");
        }
        if !self.is_logged {
            return Ok(());
        }
        if self.is_json {
            return Ok(print_json(&line)?);
        }
        tracing::info!("a step took {total:.1} ms, the mean of {}", self.n_steps);
        for (name, milliseconds) in parts {
            let share = 100.0 * milliseconds / total;
            tracing::info!("{name:>30} {milliseconds:9.1} ms {share:5.1} %");
        }
        Ok(())
    }
}

impl Observer for Profile {
    fn on(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(step) if step.step >= Self::N_WARMUP => self.step(),
            // The time between two steps is part of neither.
            Event::EvaluationEnd(_) | Event::Saved(_) if self.last.is_some() => {
                self.last = Some(Instant::now());
            }
            Event::Log(entry) if entry.contains_key("train_runtime") && self.n_steps > 0 => {
                self.tell()?;
            }
            _ => {}
        }
        Ok(())
    }
}
