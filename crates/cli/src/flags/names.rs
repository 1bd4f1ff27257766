//! Values that flags and configuration files give by name.

use serde::Deserialize;

/// Reads a value by the name that serde gives it, so that flags and configuration file agree.
pub(crate) fn named<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_list_the_known() {
        let error = named::<train::SchedulerType>("liner").unwrap_err();
        assert!(
            error.contains("`linear`") && error.contains("`constant_with_warmup`"),
            "{error}"
        );
    }
}
