#!/usr/bin/python3
"""An agent that speaks only the base protocol, and keeps what is said as the Python system's agents do."""

import json
import os
import sqlite3
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["AGENT_SECRET"]
SCHEMA = """
PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id TEXT NOT NULL, role TEXT NOT NULL, content TEXT, tool_calls TEXT,
  tool_call_id TEXT, created_at TEXT NOT NULL DEFAULT (datetime('now')));
CREATE TABLE IF NOT EXISTS pending_messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id TEXT NOT NULL, content TEXT NOT NULL,
  source TEXT NOT NULL DEFAULT 'system', created_at TEXT NOT NULL DEFAULT (datetime('now')));
"""


def database():
    db = sqlite3.connect(os.environ["DB_PATH"], timeout=10)
    db.executescript(SCHEMA)
    return db


def keep(chat, role, content, calls=None, call=None):
    with database() as db:
        now = datetime.now(timezone.utc).isoformat()
        db.execute(
            "INSERT INTO messages (chat_id, role, content, tool_calls, tool_call_id, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (chat, role, content, calls and json.dumps(calls), call, now),
        )


class Agent(BaseHTTPRequestHandler):
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def is_refused(self):
        if self.headers.get("Authorization") == f"Bearer {SECRET}":
            return False
        self.answer(401, {"error": "unauthorized"})
        return True

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"status": "ok", "agent_name": os.environ["AGENT_NAME"]})
        elif not self.is_refused():
            if self.path.startswith("/pending"):
                self.answer(200, {"messages": []})
            else:
                self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        if self.is_refused():
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/chat":
            return self.answer(404, {"detail": "Not Found"})
        chat, message = asked["chat_id"], asked["message"]
        calls = [{"id": "c1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}]
        keep(chat, "user", message)
        keep(chat, "assistant", None, calls)
        keep(chat, "tool", "plan.txt", call="c1")
        said = f"Python heard: {message}"
        keep(chat, "assistant", said)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in ({"type": "text", "content": said}, {"type": "done"}):
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def log_message(self, *args):
        pass


database().close()
ThreadingHTTPServer(("127.0.0.1", 8080), Agent).serve_forever()
