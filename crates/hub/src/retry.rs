//! Failures of one attempt, and the pauses before the next.

use std::time::Duration;

use crate::{
    config::HubConfig,
    error::HubError,
    watcher::{Watcher, sleep},
};

/// A failure of one attempt.
pub(crate) enum Failure {
    /// Trying again won't help.
    Final(HubError),
    /// Trying again may help, after the pause that the server asks for; else the error stands.
    MayPass {
        error: HubError,
        after: Option<Duration>,
    },
}

impl Failure {
    /// A failure that may pass, of a server that asks for no pause.
    pub(crate) fn may_pass(error: HubError) -> Self {
        Self::MayPass { error, after: None }
    }

    pub(crate) fn into_error(self) -> HubError {
        match self {
            Self::Final(error) | Self::MayPass { error, .. } => error,
        }
    }
}
/// Counts the retries and sleeps between them.
pub(crate) struct Retries<'a> {
    config: &'a HubConfig,
    left: u32,
    pause: Duration,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(config: &'a HubConfig) -> Self {
        Self {
            config,
            left: config.retries,
            pause: config.first_pause,
        }
    }

    /// No retry at all.
    pub(crate) fn none(config: &'a HubConfig) -> Self {
        Self {
            left: 0,
            ..Self::new(config)
        }
    }

    /// Gives all retries again, with the first pause.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.config);
    }

    /// Sleeps before the next attempt, or returns the error when there is to be none.
    pub(crate) fn wait(
        &mut self,
        failure: Failure,
        watcher: &mut dyn Watcher,
    ) -> Result<(), HubError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::MayPass { error, after } => (error, after),
        };
        let pause = after.unwrap_or(self.pause.min(self.config.longest_pause));
        if self.left == 0 || pause > self.config.longest_pause {
            return Err(error);
        }
        tracing::warn!("{error}; trying again in {:.1} s", pause.as_secs_f64());
        self.left -= 1;
        self.pause = self.pause.saturating_mul(2);
        sleep(pause, watcher)
    }
}
