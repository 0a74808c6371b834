//! Options as Spark spells them: camelCase names matched without case, values as text, and the near miss named when
//! a name is unknown.
//!
//! Options with names such as `password` are secret ([`is_secret`]): their values are for the source or sink alone and
//! are in no message and no log.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What stands where the value of a secret option would.
pub const REDACTED: &str = "*********(redacted)";

/// An option whose name has one of these in it is secret.
const SECRET_WORDS: &[&str] =
    &["password", "passwd", "passphrase", "secret", "token", "credential", "key", "jaas", "private", "auth"];

/// Options of a table, source, sink or query.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// lower-case name → (name as written, value)
    entries: BTreeMap<String, (String, String)>,
}

impl Options {
    /// Makes an empty set of options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name` to `value`, replacing what it was.
    pub fn set(&mut self, name: impl Into<String>, value: impl ToString) -> &mut Self {
        let name = name.into();
        self.entries.insert(name.to_lowercase(), (name, value.to_string()));
        self
    }

    /// Returns the value of `name`, in whatever case either was written.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(&name.to_lowercase()).map(|(_, value)| value.as_str())
    }

    /// Removes `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.entries.remove(&name.to_lowercase()).map(|(_, value)| value)
    }

    /// Returns names (as written) and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.values().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes over every entry of `other`, which wins over one of the same name here.
    pub fn extend(&mut self, other: &Options) {
        self.entries.extend(other.entries.iter().map(|(k, v)| (k.clone(), v.clone())));
    }

    /// Returns `name` read as a `T`, or `None` where it is not set.
    ///
    /// # Errors
    /// `InvalidOption` where the value is not a `T`; `expected` says what one looks like.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>> {
        self.get(name).map(|value| value.trim().parse().map_err(|_| bad_value(name, value, expected))).transpose()
    }

    /// Returns `name` read as true or false, or `default` where it is not set.
    ///
    /// # Errors
    /// `InvalidOption` where the value is neither.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name).map(|v| v.trim().to_lowercase()) {
            None => Ok(default),
            Some(v) if v == "true" => Ok(true),
            Some(v) if v == "false" => Ok(false),
            Some(v) => Err(bad_value(name, &v, "true or false")),
        }
    }

    /// Returns `name` read as a whole number of at least one, or `None` where it is not set.
    ///
    /// # Errors
    /// `InvalidOption` where it is not.
    pub fn positive(&self, name: &str) -> Result<Option<u64>> {
        match self.parsed::<u64>(name, "a whole number above zero")? {
            Some(0) => Err(bad_value(name, "0", "a whole number above zero")),
            other => Ok(other),
        }
    }

    /// Checks that every name is one of `known`.
    ///
    /// # Errors
    /// `InvalidOption` that names the unknown option, `what` it was given to, and the nearest known name.
    pub fn check_known(&self, what: &str, known: &[&str]) -> Result<()> {
        for (lower, (name, _)) in &self.entries {
            if !known.iter().any(|k| k.eq_ignore_ascii_case(lower)) {
                let hint = match nearest(lower, known) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known options: {}", known.join(", ")),
                };
                return Err(Error::invalid_option(format!("{what} has no option '{name}'; {hint}")));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    /// Shows names and values; those of secret options are redacted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, shown(name, value)))).finish()
    }
}

/// Returns whether the value of the option `name` must not be shown: names such as `password`, `kafka.sasl.jaas.config`
/// or `fs.s3a.secret.key`, in whatever case.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    SECRET_WORDS.iter().any(|word| lower.contains(word))
}

/// Returns the value of the option `name` as it may be shown. A URL with a login before its host is not.
pub fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret(name) || has_login(value) { REDACTED } else { value }
}

/// Returns whether `value` is a URL such as `http://user:password@host`.
fn has_login(value: &str) -> bool {
    let authority = value.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

impl<K: Into<String>, V: ToString> FromIterator<(K, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut options = Self::new();
        for (name, value) in iter {
            options.set(name, value);
        }
        options
    }
}

/// An error that says which option has which bad value, and what would do. The value of a secret one is not said.
pub fn bad_value(name: &str, value: &str, expected: &str) -> Error {
    Error::invalid_option(format!("option '{name}' is '{}', expected {expected}", shown(name, value)))
}

/// Returns the name of `known` nearest to `name`, where one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| {
            // Of names equally near, the one that looks like it is meant.
            let same_start =
                name.chars().next().map(|c| c.to_ascii_lowercase()) == k.chars().next().map(|c| c.to_ascii_lowercase());
            (edit_distance(&name.to_lowercase(), &k.to_lowercase()), !same_start, k.len().abs_diff(name.len()), *k)
        })
        .filter(|(distance, _, _, k)| *distance <= 1 + k.len() / 4)
        .min()
        .map(|(_, _, _, k)| k)
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_without_case() {
        let options: Options = [("maxFilesPerTrigger", "3")].into_iter().collect();
        assert_eq!(options.get("MAXFILESPERTRIGGER"), Some("3"));
        assert_eq!(options.positive("maxfilespertrigger").unwrap(), Some(3));
    }

    #[test]
    fn an_unknown_name_names_the_near_miss() {
        let options: Options = [("maxFilePerTriger", "3")].into_iter().collect();
        let error = options.check_known("json source", &["path", "maxFilesPerTrigger"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid option: json source has no option 'maxFilePerTriger'; did you mean 'maxFilesPerTrigger'?"
        );
    }

    #[test]
    fn a_login_in_a_url_is_not_shown() {
        assert_eq!(shown("schemaRegistryUrl", "http://me:hunter2@host:8081"), REDACTED);
        assert_eq!(shown("schemaRegistryUrl", "http://host:8081/a@b"), "http://host:8081/a@b");
    }

    #[test]
    fn secrets_are_not_shown() {
        for name in ["password", "SSL.Key.Password", "kafka.sasl.jaas.config", "Secret", "accessKey", "authToken"] {
            let options: Options = [(name, "hunter2"), ("path", "in")].into_iter().collect();
            let text = format!("{options:?} {:#?} {}", options, bad_value(name, "hunter2", "a number"));
            assert!(!text.contains("hunter2") && text.contains(REDACTED) && text.contains("\"in\""), "{text}");
            assert!(!options.parsed::<u64>(name, "a number").unwrap_err().to_string().contains("hunter2"));
            assert!(!options.flag(name, true).unwrap_err().to_string().contains("hunter2"));
        }
        assert!(!is_secret("maxFilesPerTrigger"));
    }
}
