//! Imports point down: no module of `src/` names one above it, one beside it, or anything of `lib.rs`.
//!
//! The floors are those of CONTRIBUTING.md. Every path that begins with `crate::` counts, wherever it stands; comments
//! do not.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, from the top down. Those of one floor know nothing of each other.
const FLOORS: &[&[&str]] = &[
    &["shell"],
    &["session"],
    &["sql", "query"],
    &["plan"],
    &["operator"],
    &["source", "sink", "checkpoint"],
    &["state"],
    &["storage"],
    &["avro", "interval", "kafka"],
    &["clock", "options"],
    &["error", "failpoints"],
];

/// What the command may use of the library: its face, and what tests make it do to itself.
const COMMAND: &[&str] = &["shell", "failpoints"];

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Says what is wrong with the paths in the text of `module`, line by line.
fn violations(module: &str, text: &str) -> Vec<(usize, String)> {
    let Some(floor) = floor_of(module) else {
        return vec![(1, format!("'{module}' has no floor: give it one in tests/streams/direction.rs"))];
    };
    let wrong = |(line, name): (usize, String)| {
        let why = match floor_of(&name) {
            _ if name == module => return None,
            None => format!("{module} uses crate::{name}, which is no module: import it from its owner"),
            Some(other) if other < floor => format!("{module} uses {name}, which is above it"),
            Some(other) if other == floor => format!("{module} uses {name}, which is beside it"),
            Some(_) => return None,
        };
        Some((line, why))
    };
    names_after("crate::", text).into_iter().filter_map(wrong).collect()
}

/// Returns the first name of each path that begins with `root`, with its line; of a group in braces each first name.
fn names_after(root: &str, text: &str) -> Vec<(usize, String)> {
    let code = without_comments(text);
    let mut names = Vec::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let line = |offset: usize| code[..at + root.len() + offset].matches('\n').count() + 1;
        match rest.strip_prefix('{') {
            None => names.push((line(0), first_name(rest))),
            Some(group) => {
                let members = members(group).into_iter();
                names.extend(members.map(|(offset, member)| (line(offset + 1), first_name(member))));
            }
        }
    }
    names
}

/// Splits `a::b, c::{d, e}} …` at the commas of the outermost group, up to its end; with the place of each member.
fn members(group: &str) -> Vec<(usize, &str)> {
    let (mut members, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                let member = &group[begin..at];
                let blank = member.len() - member.trim_start().len();
                if !member.trim().is_empty() {
                    members.push((begin + blank, member.trim()));
                }
                begin = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    members
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Blanks out line comments, docs included.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => line.split(" // ").next().unwrap_or_default().to_string(),
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module of `src/` that a file belongs to: its first folder, or itself.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    let mut files = 0;
    for file in rust_files(Path::new("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let found = match module_of(&file).as_str() {
            // It names what there is, and nothing more.
            "lib" => Vec::new(),
            "main" => names_after("millstream::", &text)
                .into_iter()
                .filter(|(_, name)| !COMMAND.contains(&name.as_str()))
                .map(|(line, name)| {
                    (line, format!("the command uses {name}: it is to call {} and nothing else", COMMAND.join(" and ")))
                })
                .collect(),
            module => violations(module, &text),
        };
        wrong.extend(found.into_iter().map(|(line, why)| format!("{}:{line}: {why}", file.display())));
        files += 1;
    }
    assert!(files > FLOORS.len(), "only {files} files were looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_floor_and_every_floor_a_module() {
    let modules: Vec<String> = rust_files(Path::new("src")).iter().map(|file| module_of(file)).collect();
    for name in FLOORS.iter().copied().flatten() {
        assert!(modules.iter().any(|module| module == name), "src/ has no module {name}");
    }
    for module in modules.iter().filter(|module| !["lib", "main"].contains(&module.as_str())) {
        assert!(floor_of(module).is_some(), "src/{module} has no floor");
    }
}

/// A check that cannot go red proves nothing.
mod checks {
    use super::*;

    fn found(module: &str, text: &str) -> Vec<String> {
        violations(module, text).into_iter().map(|(line, why)| format!("{line}: {why}")).collect()
    }

    #[test]
    fn an_upward_import_is_found() {
        let text = "use std::fmt;\nuse crate::query::manager::StreamingQueryManager;\n";
        assert_eq!(found("state", text), ["2: state uses query, which is above it"]);
        assert_eq!(found("session", text), Vec::<String>::new());
        assert_eq!(found("storage", "fn f() { crate::state::codec(); }"), ["1: storage uses state, which is above it"]);
    }

    #[test]
    fn groups_are_taken_apart() {
        let text =
            "use crate::{\n    error::{Error, Result},\n    session::{Session, reader::{A, B}},\n    sink,\n};\n";
        let want = ["3: plan uses session, which is above it"];
        assert_eq!(found("plan", text), want);
        assert_eq!(found("plan", "use crate::{session};").len(), 1);
    }

    #[test]
    fn a_neighbour_and_the_root_are_found() {
        assert_eq!(found("sink", "use crate::source::Split;"), ["1: sink uses source, which is beside it"]);
        let root = "use crate::prelude::*;\nuse crate::Session;\npub use crate::{Session as S};\n";
        assert_eq!(found("session", root).len(), 3);
        assert!(found("session", root)[1].contains("import it from its owner"));
        assert!(found("helpers", "")[0].contains("has no floor"));
    }

    #[test]
    fn what_points_down_and_what_is_said_in_comments_is_fine() {
        let text = "//! See [`crate::session`].\nuse crate::state::tables;\n// crate::shell\nuse super::x; // crate::shell\n\
                    pub(crate) fn f() {}\nuse other_crate::query::X;\nmacro_rules! m { () => { $crate::error::Error } }\n";
        assert_eq!(found("operator", text), Vec::<String>::new());
    }
}
