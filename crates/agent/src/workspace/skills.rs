//! Skills: instructions for a kind of work. The model is told what there is and reads the text when it needs it.
//!
//! The shipped ones are part of the program and not copied into any workspace: they stay current with it, a thousand visitors do
//! not hold a thousand copies, and a file of the same path in a workspace simply takes their place. `read_file` shows them where
//! the workspace has no such file ([`shipped`]).

use super::text::{one_line, printable};

/// Bytes of a SKILL.md that are looked at for its front matter.
pub const HEAD_BYTES: u64 = 4_096;
/// Characters of a name and of a description in the prompt.
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 300;

const SHIPPED: [(&str, &str); 3] = [
    ("memory-management", include_str!("../../skills/memory-management/SKILL.md")),
    ("weather", include_str!("../../skills/weather/SKILL.md")),
    ("web-research", include_str!("../../skills/web-research/SKILL.md")),
];

/// A skill as the model is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skill {
    /// Its directory below `skills/`.
    pub directory: String,
    /// The name, where it is another one.
    pub name: Option<String>,
    /// What it is for, or why that is not known.
    pub description: String,
}

/// The text of a shipped skill, by the path in a workspace at which it appears (`skills/weather/SKILL.md`).
pub fn shipped(path: &str) -> Option<&'static str> {
    let path = path.trim().trim_start_matches("./").trim_start_matches("/workspace/");
    let directory = path.strip_prefix("skills/")?.strip_suffix("/SKILL.md")?;
    SHIPPED.iter().find(|(name, _)| *name == directory).map(|(_, text)| *text)
}

/// The shipped skills whose place nobody has taken.
pub fn shipped_besides(own: &[Skill]) -> impl Iterator<Item = Skill> {
    SHIPPED
        .iter()
        .filter(|(name, _)| own.iter().all(|skill| skill.directory != *name))
        .map(|(name, text)| read(name, text.as_bytes()))
}

/// Reads the beginning of a SKILL.md. Whatever is wrong with it is told in the description, so that the model can tell its
/// owner.
pub fn read(directory: &str, head: &[u8]) -> Skill {
    let directory = directory.to_owned();
    let unknown = |why: &str| Skill { directory: directory.clone(), name: None, description: format!("({why})") };
    // The head may end in the middle of a character.
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or_default(),
        Err(_) => return unknown("its SKILL.md is not text"),
    };
    if text.contains('\0') {
        return unknown("its SKILL.md is not text");
    }
    let Some(fields) = front_matter(text) else {
        return unknown("its SKILL.md has no front matter with name and description");
    };
    let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let name = field("name").map(|name| one_line(name, MAX_NAME)).filter(|name| !name.is_empty() && *name != directory);
    match field("description").map(|text| one_line(text, MAX_DESCRIPTION)).filter(|text| !text.is_empty()) {
        Some(description) => Skill { directory, name, description },
        None => Skill { name, ..unknown("its SKILL.md has no description") },
    }
}

/// Whether a directory's name can be shown and asked for as it is.
pub fn is_showable(directory: &str) -> bool {
    !directory.is_empty()
        && directory.len() <= MAX_NAME
        && printable(directory)
        && !directory.contains(['`', '<', '>', '/', '\u{fffd}'])
}

/// The fields between two lines of three dashes: the little of YAML that skills use, `name: value` with quotes, and text that
/// goes on in indented lines.
fn front_matter(text: &str) -> Option<Vec<(String, String)>> {
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.trim_end() == "---" {
            return Some(fields);
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let value = value.trim();
            let value = if matches!(value, ">" | "|" | ">-" | "|-") { "" } else { value };
            fields.push((name.trim().to_ascii_lowercase(), unquoted(value).to_owned()));
        }
    }
    None
}

fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(text: &str) -> String {
        read("x", text.as_bytes()).description
    }

    #[test]
    fn the_shipped_skills_are_whole_and_found_by_their_path() {
        for skill in shipped_besides(&[]) {
            assert!(!skill.description.starts_with('('), "{skill:?}");
            assert_eq!(skill.name, None, "the name is the directory's");
            let text = shipped(&format!("skills/{}/SKILL.md", skill.directory)).expect("found");
            assert!(text.len() < 8_000);
        }
        assert!(
            shipped("./skills/weather/SKILL.md").is_some() && shipped("/workspace/skills/weather/SKILL.md").is_some()
        );
        for path in ["skills/weather", "skills/../weather/SKILL.md", "weather/SKILL.md", "skills/none/SKILL.md", ""] {
            assert_eq!(shipped(path), None);
        }
    }

    #[test]
    fn an_own_skill_takes_the_place_of_a_shipped_one() {
        let own = [read("weather", b"---\nname: weather\ndescription: mine\n---\n")];
        let names: Vec<String> = shipped_besides(&own).map(|skill| skill.directory).collect();
        assert_eq!(names, ["memory-management", "web-research"]);
    }

    #[test]
    fn front_matter_is_read_in_the_forms_people_write() {
        assert_eq!(description("---\nname: x\ndescription: does it\n---\nbody"), "does it");
        assert_eq!(description("\u{feff}---\r\ndescription: \"a: b\"\r\n---\r\n"), "a: b");
        assert_eq!(description("---\ndescription: >\n  one\n  two\n---\n"), "one two");
        let named = read("x", b"---\nname: Other\ndescription: d\n---\n");
        assert_eq!((named.directory.as_str(), named.name.as_deref()), ("x", Some("Other")));
    }

    #[test]
    fn broken_skills_say_what_is_wrong_and_stay_small() {
        assert!(description("just text").contains("no front matter"));
        assert!(description("---\nname: x\ndescription: never closed").contains("no front matter"));
        assert!(description("---\nname: x\n---\n").contains("no description"));
        assert!(read("x", b"\x7fELF\xff\xfe").description.contains("not text"));
        assert!(read("x", b"---\0").description.contains("not text"));
        let long = format!("---\ndescription: {}\n---\n", "<x>\u{7} ".repeat(300));
        let told = description(&long);
        assert!(told.chars().count() <= MAX_DESCRIPTION + 1 && !told.contains('\u{7}') && !told.contains('<'));
        let cut = "---\ndescription: ä\n---\nä".as_bytes();
        assert_eq!(read("x", &cut[..cut.len() - 1]).description, "ä");
    }

    #[test]
    fn names_that_could_be_mistaken_for_something_else_are_not_shown() {
        for name in ["", "a\nb", "a`b", "<a>", "a/b", "\u{202e}a", &"x".repeat(65)] {
            assert!(!is_showable(name), "{name:?}");
        }
        assert!(is_showable("web-research") && is_showable("Küche"));
    }
}
