//! Telegram: the Bot API, webhook delivery, and a page to chat in.
