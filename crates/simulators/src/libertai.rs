//! LibertAI: OpenAI-compatible chat completions.
