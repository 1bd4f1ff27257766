//! Versions and machine, as the report shows them.

use serde_json::{Map, Value};
use tch::Device;

use crate::{commands::doctor, device, machine};

/// Name and value of each fact, in order.
pub(super) fn environment() -> Map<String, Value> {
    let mut facts = doctor::facts();
    let device = match device::chosen() {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    };
    facts.push(("device", device));
    facts.push(("threads", rayon::current_num_threads().to_string()));
    facts.extend(machine::processor().map(|name| ("processor's name", name)));
    facts.extend(machine::memory().map(|size| ("memory", in_gib(size))));
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| (name.to_owned(), Value::String(fact)))
        .collect()
}

fn in_gib(n_bytes: u64) -> String {
    format!("{:.1} GiB", n_bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_gib() {
        assert_eq!(in_gib(24_684_084 << 10), "23.5 GiB");
    }
}
