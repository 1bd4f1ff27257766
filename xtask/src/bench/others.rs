//! The work of other programs while a process is measured, by the kernel's account of the cores.

use std::fs;

/// The time of all cores so far, in the kernel's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    all: u64,
    /// In any program, or taken by other virtual machines.
    busy: u64,
    /// In this program and the processes that it has waited for.
    own: u64,
}

impl Account {
    /// The account of this moment; none on systems without one.
    pub(super) fn now() -> Option<Self> {
        let cores = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Self::read(&cores, &own)
    }

    fn read(cores: &str, own: &str) -> Option<Self> {
        // user, nice, system, idle, waiting for a disk, interrupts twice, stolen.
        let ticks = numbers(cores.lines().next()?.strip_prefix("cpu ")?);
        let [user, nice, system, idle, waiting, hard, soft, stolen] =
            ticks.get(..8)?.try_into().ok()?;
        let busy: u64 = [user, nice, system, hard, soft, stolen].iter().sum();
        // The name, in parentheses, may have spaces; the time of this program and of its children is 12 fields on.
        let (_, own) = own.rsplit_once(')')?;
        let own = own.split_ascii_whitespace().skip(11).take(4);
        Some(Self {
            all: busy + idle + waiting,
            busy,
            own: own
                .map(|field| field.parse::<u64>().ok())
                .sum::<Option<u64>>()?,
        })
    }

    /// The share of all cores' time that went to others since `before`, from 0 to 1.
    pub(super) fn share_of_others(self, before: Self) -> f64 {
        // Some kernels take back time that they had called waiting.
        let all = self.all.saturating_sub(before.all).max(1);
        let busy = self.busy.saturating_sub(before.busy);
        busy.saturating_sub(self.own - before.own) as f64 / all as f64
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_our_own_is_of_others() {
        let account = |cores: &str, own: &str| {
            let cores = format!("cpu  {cores} 0 0\ncpu0 1 2 3\n");
            let own = format!("7 (x y) z) S 1 1 1 0 -1 0 0 0 0 0 {own} 20 0\n");
            Account::read(&cores, &own).unwrap()
        };
        let before = account("1000 0 100 5000 50 0 0 10", "5 5 80 10");
        let after = account("1150 10 120 5100 50 0 10 20", "6 5 219 10");
        // 200 of 300 ticks were busy, 140 of them with our own work.
        assert_eq!(after.share_of_others(before), 0.2);
        assert_eq!(Account::read("cpu  1 2", ""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_has_an_account() {
        let before = Account::now().unwrap();
        let share = Account::now().unwrap().share_of_others(before);
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
