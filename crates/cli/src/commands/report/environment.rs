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
    facts.extend(machine::memory().map(|size| ("memory", in_gib(&size))));
    let facts = facts.into_iter();
    facts
        .map(|(name, fact)| (name.to_owned(), Value::String(fact)))
        .collect()
}

/// A size as the kernel writes it, such as `24684084 kB`, in GiB.
fn in_gib(size: &str) -> String {
    let kilobytes = size.strip_suffix(" kB").and_then(|n| n.parse::<f64>().ok());
    kilobytes.map_or_else(|| size.to_owned(), |n| format!("{:.1} GiB", n / 1048576.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_gib() {
        assert_eq!(in_gib("24684084 kB"), "23.5 GiB");
        assert_eq!(in_gib("much"), "much");
    }
}
