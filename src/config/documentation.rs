//! What operators read of the variables: `.env.example` and the help of `baal serve`.

use super::{COMPOSE_VARIABLES, Need, VARIABLES, Variable};

/// The text of `.env.example`.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Configuration of Baal. Copy to .env, fill in what has no default. Every variable can also be given as NAME_FILE,\n\
         # the path of a file that holds the value.\n",
    );
    for variable in VARIABLES {
        describe(variable, "", &mut text);
    }
    text.push_str(
        "\n# For `docker compose` alone, which reads this file too. There DATABASE_URL is postgres://baal@postgres/baal and\n\
         # DATABASE_PASSWORD any long text without spaces; files such as the SSH key are in ./secrets, and their paths begin with\n\
         # secrets/. LISTEN_ADDR, ADMIN_LISTEN_ADDR and TRUSTED_PROXIES are set by docker-compose.yml.\n",
    );
    for variable in COMPOSE_VARIABLES {
        describe(variable, variable.example, &mut text);
    }
    text
}

/// Appends a variable's documentation and assignment; one that is required is given `value`.
fn describe(variable: &Variable, value: &str, text: &mut String) {
    let Variable { name, example, .. } = variable;
    text.push('\n');
    for line in variable.doc {
        text.push_str(&format!("#{line}\n"));
    }
    text.push_str(&match variable.need {
        Need::Required => format!("# Required. Example: {example}\n{name}={value}\n"),
        Need::Default(default) => format!("# {name}={default}\n"),
        Need::Optional => format!("# Optional. Example: {example}\n# {name}=\n"),
    });
}

/// The variables as the last part of `baal serve --help`.
pub fn help() -> String {
    let mut text = String::from("Environment (each also as NAME_FILE; `.env` is read if present):\n");
    for variable in VARIABLES {
        let need = match variable.need {
            Need::Required => " (required)".to_owned(),
            Need::Default(default) => format!(" [default: {default}]"),
            Need::Optional => String::new(),
        };
        text.push_str(&format!("\n  {}{need}\n", variable.name));
        for line in variable.doc {
            text.push_str(&format!("     {line}\n"));
        }
    }
    text
}
