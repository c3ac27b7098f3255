//! What the bot says about keys and accounts.

use std::time::Duration;

use super::Message;
use crate::agents::Status;
use crate::agents::account::Account;
use crate::libertai::BalanceError;
use crate::telegram::callback::{AccountPress, OverviewPress, Press};
use crate::telegram::markdown::Formatted;
use crate::telegram::text::Text;

/// Where people get keys.
const CONSOLE: &str = "https://console.libertai.io";

fn press(press: AccountPress, label: impl Into<String>) -> teloxide_core::types::InlineKeyboardButton {
    Press::Account(press).button(label)
}

/// A button about a key that is not connected any more.
pub const NO_KEY_CONNECTED: &str = "No key is connected.";

/// `/login` without a key.
pub fn ask_for_key(connected: bool) -> Message {
    let text = Text::bold("🔑 Connect your LibertAI account")
        .then("\n\nSend me a key of yours. I delete your message at once, check the key, store it encrypted and put it on your agents' machines. ")
        .then("Agents that run on it cost you credits, and messages to them don't count against the free ones.\n\n")
        .then(format!("You get a key at {CONSOLE}"))
        .then(if connected { "\n\nThe key that is connected now is replaced by the new one." } else { "" });
    (text.done(), vec![vec![press(AccountPress::Cancel, "❌ Cancel")]])
}

/// A key is being checked.
pub fn checking_key() -> Message {
    (Text::plain("🔑 Checking your key… I have deleted your message with it.").done(), vec![])
}

/// What was sent cannot be a key.
pub fn no_key() -> Message {
    let text = Text::plain("That doesn't look like a key: it is one word such as sk-…, without spaces. ")
        .then("I deleted your message to be safe. Send the key again, or /cancel.");
    (text.done(), vec![])
}

/// A key in a group.
pub fn key_in_group() -> Message {
    let text = Text::plain("⚠️ Everybody in this group can read a key that is sent here. Please revoke it at ")
        .then(CONSOLE)
        .then(" and send a new one to me in a private chat, with /login.");
    (text.done(), vec![])
}

/// A key is connected; `others` of the user's agents run on another one.
pub fn key_connected(masked: &str, balance: f64, others: i64) -> Message {
    let mut text = Text::plain("✅ ").then_bold("Your LibertAI account is connected").then(format!(
        "\n\nKey: {masked}\nBalance: {}\n\nAgents that you create from now on run on it.",
        in_credits(balance)
    ));
    if balance <= 0.0 {
        text = text.then(format!(" But the account is empty: they won't answer until you top it up at {CONSOLE}"));
    }
    let mut buttons = vec![];
    if others > 0 {
        text = text.then(match others {
            1 => "\n\nOne of your agents still runs on another key. Move it to yours? It is restarted, and forgets nothing."
                .to_owned(),
            n => format!("\n\n{n} of your agents still run on another key. Move them to yours? They are restarted, and forget nothing."),
        });
        buttons.push(vec![press(AccountPress::Redeploy, move_label(others))]);
    }
    buttons.push(vec![press(AccountPress::Show, "👤 Account")]);
    (text.done(), buttons)
}

fn move_label(agents: i64) -> String {
    if agents == 1 { "🔄 Move my agent".into() } else { format!("🔄 Move my {agents} agents") }
}

/// A key is not connected.
pub fn key_not_connected(error: BalanceError) -> Message {
    let why = match error {
        BalanceError::Refused => format!(
            "LibertAI doesn't know this key. Please check that it is complete and not revoked ({CONSOLE}), then send /login again."
        ),
        BalanceError::Empty => format!(
            "The key is right, but its account has no credits left. Top it up at {CONSOLE}, then send /login again."
        ),
        BalanceError::Unreachable => {
            "LibertAI can't be reached at the moment, so the key couldn't be checked. Please send /login again in a few minutes."
                .into()
        }
        BalanceError::Nonsense => {
            "LibertAI answered something that I don't understand, so the key couldn't be checked. Please try again later."
                .into()
        }
    };
    let text = Text::plain("❌ ").then_bold("Nothing was connected").then("\n\n").then(why);
    (text.done(), vec![vec![press(AccountPress::Login, "🔑 Try again")]])
}

/// A key was being checked when its user logged out or was forgotten.
pub fn login_withdrawn() -> Formatted {
    Text::plain("🔑 Not connected: you logged out meanwhile, and the key is forgotten.").done()
}

/// A dialogue about a key was left.
pub fn left_as_it_was() -> Message {
    (Text::plain("All right, everything stays as it was.").done(), vec![])
}

/// Credits of LibertAI, which are US dollars.
pub fn in_credits(balance: f64) -> String {
    format!("{balance:.2} credits")
}

/// What is known of a balance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Balance {
    /// LibertAI is being asked.
    Asking,
    /// In credits.
    Known(f64),
    /// LibertAI did not say.
    Trouble(BalanceError),
    /// The stored key cannot be read any more.
    Unreadable,
}

/// `/account`.
pub fn account(account: &Account, balance: Balance) -> Message {
    let mut text = Text::bold("👤 Your account").then("\n\n");
    text = match &account.key {
        None => text.then("🆓 Free: your agents run on the key of this bot."),
        Some(key) => {
            text.then(format!("🔑 Connected to LibertAI with the key {key}\nBalance: {}", balance_words(balance)))
        }
    };
    text = text.then(match account.limit {
        0 => "\n\nFree messages are switched off here at the moment.".to_owned(),
        limit => format!(
            "\n\nFree messages today: {} of {limit} used; the count starts anew in {} (00:00 UTC).",
            account.used.min(limit),
            until(account.resets_in)
        ),
    });
    let count: i64 = account.agents.iter().filter(|(status, _)| *status != Status::Deleting).map(|(_, n)| n).sum();
    let each: Vec<String> = account.agents.iter().map(|(status, n)| format!("{n} {status}")).collect();
    text = text.then(format!("\nAgents: {count} of {}", account.max_agents));
    if !each.is_empty() {
        text = text.then(format!(" ({})", each.join(", ")));
    }
    if account.paused > 0 {
        let it = if account.paused == 1 { "it" } else { "them" };
        text = text.then(format!("\n⏸ {} paused: repair {it} to go on (/list)", account.paused));
    }
    if account.others > 0 {
        text = text.then(format!("\nNot on your key: {}", account.others));
    }
    text = text.then(if account.verbose {
        "\nWhat agents do meanwhile: kept as a line under the answer (/verbose)"
    } else {
        "\nWhat agents do meanwhile: shown only while they work (/verbose)"
    });
    let mut buttons = vec![];
    if account.others > 0 {
        buttons.push(vec![press(AccountPress::Redeploy, move_label(account.others))]);
    }
    buttons.push(match account.key {
        Some(_) => vec![press(AccountPress::Login, "🔑 Another key"), press(AccountPress::AskLogout, "🚪 Log out")],
        None => vec![press(AccountPress::Login, "🔑 Connect LibertAI")],
    });
    buttons.push(vec![
        Press::Overview(OverviewPress::Dashboard).button("📊 Dashboard"),
        press(AccountPress::Show, "🔄 Refresh"),
    ]);
    (text.done(), buttons)
}

fn balance_words(balance: Balance) -> String {
    match balance {
        Balance::Asking => "…".into(),
        Balance::Known(balance) => in_credits(balance),
        Balance::Trouble(BalanceError::Refused) => {
            "LibertAI doesn't know the key any more. Connect another one, or log out.".into()
        }
        Balance::Trouble(BalanceError::Empty) => format!("none left. Top it up at {CONSOLE}"),
        Balance::Trouble(BalanceError::Unreachable | BalanceError::Nonsense) => {
            "not known, LibertAI doesn't say at the moment".into()
        }
        Balance::Unreadable => "not known: the key can't be read any more. Please connect it again.".into(),
    }
}

/// Hours and minutes, rounded up.
pub fn until(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{} min", minutes.max(1)),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// `/verbose`.
pub fn verbose(on: bool) -> Message {
    let text = if on {
        Text::plain(
            "🔧 From now on answers keep a line that tells which tools the agent used. /verbose off hides it again.",
        )
    } else {
        Text::plain("From now on tools are shown only while the agent works. /verbose on keeps a line about them.")
    };
    (text.done(), vec![])
}

/// `/verbose` with something else.
pub fn verbose_usage() -> Message {
    (Text::plain("Send /verbose on or /verbose off; /verbose alone changes from one to the other.").done(), vec![])
}

/// `/logout` without a key.
pub fn not_connected() -> Message {
    let text = Text::plain("No key is connected, so there is nothing to log out from. /login connects one.");
    (text.done(), vec![])
}

/// `/logout`: a question; `agents` run on the key.
pub fn ask_logout(masked: Option<&str>, agents: i64) -> Message {
    let mut text = Text::bold("🚪 Log out from LibertAI?").then("\n\nI forget your key");
    if let Some(masked) = masked {
        text = text.then(format!(" {masked}"));
    }
    text = text.then(match agents {
        0 => ". None of your agents runs on it.".to_owned(),
        1 => ". One of your agents runs on it: it goes back to the key of this bot, where messages count against the free ones."
            .to_owned(),
        n => format!(
            ". {n} of your agents run on it: they go back to the key of this bot, where messages count against the free ones."
        ),
    });
    let buttons = vec![vec![press(AccountPress::Logout, "🚪 Log out"), press(AccountPress::Cancel, "Stay connected")]];
    (text.done(), buttons)
}

/// Agents are on their way to another key.
pub fn moving(logout: bool, names: &[&str]) -> Message {
    let mut text = if logout {
        Text::plain("🚪 Your key is forgotten here. Taking it away from your agents…")
    } else {
        Text::plain("🔄 Moving your agents to your key…")
    };
    if !names.is_empty() {
        text = text.then("\n\nStill to come: ").then(names.join(", "));
    }
    (text.done(), vec![])
}

/// What came of it; `left` could not be moved.
pub fn moved(logout: bool, left: &[(i64, String)]) -> Message {
    let mut text = if logout {
        Text::plain("✅ ").then_bold("You are logged out").then("\n\nYour key is forgotten")
    } else {
        Text::plain("🔑 ").then_bold(if left.is_empty() {
            "Your agents run on your key now"
        } else {
            "Not all agents could be moved"
        })
    };
    if left.is_empty() {
        let text = if logout { text.then(", and none of your agents has it any more.") } else { text };
        return (text.done(), vec![vec![press(AccountPress::Show, "👤 Account")]]);
    }
    text = text.then(if logout {
        ", but these agents couldn't be reached, so it may still be on their machines:"
    } else {
        "\n\nThese still run on another key, or don't run:"
    });
    for (id, name) in left {
        text = text.then("\n• ").then_bold(name).then(format!(" (no. {id}): /repair {id}"));
    }
    text = text.then(if logout {
        format!(
            "\n\nThey are paused: no message reaches them until a repair has put the key of this bot there. What they do by \
             themselves may go on spending your credits until then; to be sure at once, revoke the key at {CONSOLE}"
        )
    } else {
        "\n\nRepairing them puts your key there.".to_owned()
    });
    let mut buttons: Vec<_> =
        left.iter().take(5).map(|(id, name)| vec![Press::Repair(*id).button(format!("🔧 Repair {name}"))]).collect();
    buttons.push(vec![press(AccountPress::Show, "👤 Account")]);
    (text.done(), buttons)
}

/// The agents were on their way to a key that was taken back.
pub fn move_withdrawn() -> Message {
    (Text::plain("You logged out meanwhile, so your agents stay on the key of this bot.").done(), vec![])
}

/// `Agent::paused` after a logout, for its owner.
pub const PAUSED_BY_LOGOUT: &str = "you logged out from LibertAI, and your key could not be taken off its machine yet.";

/// A key in a message that was changed.
pub fn key_in_edit() -> Message {
    let text =
        Text::plain("🔑 I deleted that message, because it showed a key. To connect the key send /login once more.");
    (text.done(), vec![])
}

/// All agents are where they are wanted.
pub const ALREADY_MOVED: &str = "All your agents run on it already.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_in_hours_and_minutes() {
        for (seconds, words) in
            [(0, "1 min"), (59, "1 min"), (61, "2 min"), (3_600, "1 h"), (3_601, "1 h 1 min"), (86_400, "24 h")]
        {
            assert_eq!(until(Duration::from_secs(seconds)), words);
        }
    }
}
