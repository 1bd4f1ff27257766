//! YAML of a model card's metadata: block lists and maps, and scalars that no reader takes for something else.

use serde_json::Value;

/// Words that YAML readers take for something else than text.
const RESERVED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Writes a map.
pub(crate) fn write(value: &Value) -> String {
    let mut text = String::new();
    write_block(value, 0, &mut text);
    text
}

// A map or list, each line indented; lists stand as far left as their key.
fn write_block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(entries) => {
            for (i, (key, value)) in entries.iter().enumerate() {
                // The first line of a map within a list stands behind the dash.
                if i > 0 || text.is_empty() || text.ends_with('\n') {
                    text.push_str(&pad);
                }
                text.push_str(&scalar(key));
                text.push(':');
                write_value(value, indent, text);
            }
        }
        Value::Array(values) => {
            for value in values {
                text.push_str(&pad);
                text.push_str("- ");
                match value {
                    Value::Object(_) => write_block(value, indent + 2, text),
                    _ => {
                        text.push_str(&any_scalar(value));
                        text.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn write_value(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            text.push('\n');
            write_block(value, indent + 2, text);
        }
        Value::Array(values) if !values.is_empty() => {
            text.push('\n');
            write_block(value, indent, text);
        }
        _ => {
            text.push(' ');
            text.push_str(&any_scalar(value));
            text.push('\n');
        }
    }
}

fn any_scalar(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        // JSON is YAML.
        other => other.to_string(),
    }
}

/// A text plain where it can only be text, else in quotes as JSON has it.
fn scalar(text: &str) -> String {
    let starts_as_text = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:".contains(c);
    let is_reserved = RESERVED.contains(&text.to_ascii_lowercase().as_str());
    if starts_as_text && text.chars().all(is_plain) && !text.ends_with(':') && !is_reserved {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_stay_what_they_are() {
        for plain in ["mit", "loss:CoSENTLoss", "org/name", "recall@10", "nor"] {
            assert_eq!(scalar(plain), plain);
        }
        for quoted in [
            "no", "Yes", "null", "1.0", "", "a b", "key: x", "key:", "- x", "'", "#x", "~",
        ] {
            assert_eq!(scalar(quoted), format!("\"{quoted}\""));
        }
        assert_eq!(scalar("a\n\"b\""), r#""a\n\"b\"""#);
    }

    #[test]
    fn lists_and_maps_nest() {
        let value = json!({"a": [], "b": {"c": [{"d": 1, "e": ["x"]}, {"d": null}]}, "f": {}});
        assert_eq!(
            write(&value),
            "a: []\nb:\n  c:\n  - d: 1\n    e:\n    - x\n  - d: null\nf: {}\n"
        );
    }
}
