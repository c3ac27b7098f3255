"""Drives the Telegram simulator by aiogram as a bot of its own: polling and a webhook, texts, edits, pictures, documents, albums,
downloads, presses, menus, refusals. Whatever aiogram's types refuse, or keep as unknown, is an error.

    drive.py URL TOKEN

Prints what was seen as JSON, or says on standard error what is wrong and exits with 1.
"""

import asyncio
import base64
import collections
import contextlib
import io
import json
import struct
import sys
import traceback
import zlib

import aiohttp
from aiogram import Bot, Dispatcher, F
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.session.middlewares.base import BaseRequestMiddleware
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramMigrateToChat, TelegramRetryAfter
from aiogram.filters import Command, CommandStart
from aiogram.methods import GetUpdates, SendMessageDraft
from aiogram.types import (
    BotCommand,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaDocument,
    InputMediaPhoto,
    LinkPreviewOptions,
    Message,
    MessageEntity,
    ReplyParameters,
    Update,
)
from aiogram.utils.media_group import MediaGroupBuilder
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web
from fields import unknown_fields

PATIENCE_S = 20
USER, OTHER = 11, 12


def require(holds, what):
    if not holds:
        raise AssertionError(what)


def png(width=3, height=2):
    """A picture of one colour."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + b"\x20\x80\xc0" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Strict(BaseRequestMiddleware):
    """Complains about answers with fields that aiogram doesn't know."""

    async def __call__(self, make_request, bot, method):
        result = await make_request(bot, method)
        if isinstance(method, GetUpdates):
            return result  # The dispatcher's middleware looks at each, and errors here would only be tried again.
        unknown = sorted(unknown_fields(getattr(result, "result", result)))
        require(not unknown, f"the answer to {type(method).__name__} has unknown fields: {unknown}")
        return result


class Users:
    """Plays the users by the simulator's control interface."""

    def __init__(self, http, url):
        self.http, self.url = http, url

    async def ask(self, method, path, body=None):
        async with self.http.request(method, self.url + path, json=body) as answer:
            text = await answer.text()
            require(answer.status == 200, f"{method} {path}: {answer.status} {text}")
            return json.loads(text)

    async def post(self, path, body):
        return await self.ask("POST", path, body)

    async def says(self, text, user=USER):
        return await self.post(f"/sim/users/{user}/messages", {"text": text})

    async def sends(self, kind, content, caption="", **fields):
        file = {"content_base64": base64.b64encode(content).decode(), **fields}
        return await self.post(f"/sim/users/{USER}/messages", {kind: file, "text": caption})

    async def presses(self, message, data):
        return (await self.post(f"/sim/users/{USER}/press", {"message_id": message.message_id, "data": data}))["query_id"]


class Seen:
    """What the bot's handlers saw, in order, for whoever waits for it."""

    def __init__(self):
        self.queue, self.counts = asyncio.Queue(), collections.Counter()

    async def put(self, what, event):
        self.counts[what] += 1
        await self.queue.put((what, event))

    async def next(self, what):
        kind, event = await asyncio.wait_for(self.queue.get(), PATIENCE_S)
        require(kind == what, f"{kind} came instead of {what}: {event}")
        return event


def dispatcher(seen, errors):
    """Handlers as bots have them, each of which does what it is for."""
    bot_dispatcher = Dispatcher()

    @bot_dispatcher.update.outer_middleware()
    async def strict(handler, event: Update, data):
        unknown = sorted(unknown_fields(event))
        if unknown:
            errors.append(f"an update has unknown fields: {unknown}: {event}")
        return await handler(event, data)

    @bot_dispatcher.errors()
    async def failed(event):
        errors.append("".join(traceback.format_exception(event.exception)))
        return True

    @bot_dispatcher.message(CommandStart(deep_link=True))
    async def started(message: Message, command):
        await message.answer(f"payload {command.args}")
        await seen.put("start", message)

    @bot_dispatcher.message(Command("menu"))
    async def menu(message: Message):
        keys = [[InlineKeyboardButton(text="Press", callback_data="press"), InlineKeyboardButton(text="Page", url="https://example.org/")]]
        sent = await message.reply("**menu**", reply_markup=InlineKeyboardMarkup(inline_keyboard=keys))
        await seen.put("menu", sent)

    @bot_dispatcher.callback_query(F.data == "press")
    async def pressed(query: CallbackQuery):
        await query.answer("pressed", show_alert=True)
        edited = await query.message.edit_text("edited", reply_markup=None)
        await seen.put("press", edited)

    @bot_dispatcher.message(F.media_group_id)
    async def album(message: Message):
        await seen.put("album", message)

    @bot_dispatcher.message(F.photo | F.document | F.voice | F.audio | F.video | F.video_note | F.animation)
    async def file(message: Message, bot: Bot):
        kinds = [message.photo and message.photo[-1], message.animation, message.document, message.voice, message.audio]
        kinds += [message.video, message.video_note]
        media = next(kind for kind in kinds if kind)
        content = io.BytesIO()
        await bot.download(media, destination=content)
        await message.answer_document(
            BufferedInputFile(content.getvalue(), filename="back.bin"), caption=f"*{message.caption or ''}*",
            caption_entities=[MessageEntity(type="bold", offset=0, length=1)],
        )
        await seen.put("file", (message, content.getvalue()))

    @bot_dispatcher.message(F.location | F.venue | F.contact | F.sticker)
    async def thing(message: Message):
        await seen.put("thing", message)

    @bot_dispatcher.message(F.text)
    async def text(message: Message):
        await message.answer(message.text, entities=message.entities, link_preview_options=LinkPreviewOptions(is_disabled=True))
        await seen.put("text", message)

    @bot_dispatcher.message()
    async def service(message: Message):
        await seen.put("service", message)

    @bot_dispatcher.edited_message()
    async def edited(message: Message):
        await seen.put("edited", message)

    @bot_dispatcher.my_chat_member()
    async def standing(event):
        await seen.put("standing", event)

    return bot_dispatcher


async def converse(bot, users, seen):
    """One conversation over every kind of update; the same by polling and by a webhook."""
    said = await users.says("Hello 👋 /menu https://example.org/")
    message = await seen.next("text")
    require(message.message_id == said["message_id"] and message.chat.type == "private", f"another message: {message}")
    await users.says("/start agent_5")
    await seen.next("start")
    await users.says("/menu")
    menu = await seen.next("menu")
    require(menu.reply_to_message is not None and menu.reply_markup.inline_keyboard[0][0].callback_data == "press", f"{menu}")
    query = await users.presses(menu, "press")
    edited = await seen.next("press")
    require(edited.text == "edited" and edited.edit_date and edited.reply_markup is None, f"not edited: {edited}")
    answer = await users.ask("GET", f"/sim/callbacks/{query}")
    require((answer["text"], answer["show_alert"]) == ("pressed", True), f"{answer}")

    picture = png()
    for kind, content, fields in [
        ("photo", picture, {}),
        ("document", b"words", {"file_name": "a b.txt", "mime_type": "text/plain"}),
        ("voice", b"OggS", {"duration": 3}),
        ("audio", b"ID3", {"file_name": "song.mp3"}),
        ("video", b"mp4", {"file_name": "v.mp4"}),
        ("video_note", b"round", {}),
        ("animation", b"gif", {"file_name": "a.gif"}),
    ]:
        await users.sends(kind, content, "a caption", **fields)
        message, downloaded = await seen.next("file")
        require(getattr(message, kind) and downloaded == content, f"{kind} came back as {downloaded!r}")
    two = [{"photo": {"content_base64": base64.b64encode(picture).decode()}, "text": text} for text in ("both", "")]
    group = await users.post(f"/sim/users/{USER}/albums", {"items": two})
    first, second = await seen.next("album"), await seen.next("album")
    require(first.media_group_id == second.media_group_id == group["media_group_id"], "an album of two groups")
    require((first.caption, second.caption) == ("both", None), "captions of an album")

    place = {"latitude": 52.5, "longitude": 13.4}
    for thing in [
        {"location": place},
        {"venue": {"location": place, "title": "Here", "address": "Street 1"}},
        {"contact": {"phone_number": "+49", "first_name": "Ann"}},
        {"sticker": {"content_base64": ""}},
    ]:
        await users.post(f"/sim/users/{USER}/messages", thing)
        message = await seen.next("thing")
        require(getattr(message, next(iter(thing))) is not None, f"no {thing} in {message}")

    said = await users.says("before")
    await seen.next("text")
    await users.ask("PUT", f"/sim/users/{USER}/messages/{said['message_id']}", {"text": "after"})
    edited = await seen.next("edited")
    require(edited.text == "after" and edited.edit_date, f"{edited}")
    await users.post(f"/sim/users/{USER}/messages", {"text": "an answer", "reply_to": edited.message_id})
    require((await seen.next("text")).reply_to_message.text == "after", "what was replied to")


async def send(bot, users):
    """Everything that a bot sends of itself."""
    me = await bot.get_me()
    require(me.is_bot and me.id == bot.id, f"{me}")
    sent = await bot.send_message(USER, "<b>bold</b> <a href='https://e.org/'>x</a>", parse_mode="HTML", disable_notification=True)
    require([entity.type for entity in sent.entities] == ["bold", "text_link"], f"{sent.entities}")
    quoted = await bot.send_message(USER, "re", reply_parameters=ReplyParameters(message_id=sent.message_id))
    require(quoted.reply_to_message.message_id == sent.message_id, "not a reply")
    changed = await bot.edit_message_text("new", chat_id=USER, message_id=sent.message_id)
    require(changed.text == "new", f"{changed}")
    for offset in (0, 1):
        require(await bot(SendMessageDraft(chat_id=USER, draft_id=7, text="thinking"[: 3 + offset])), "no draft")

    picture = png(30, 20)
    photo = await bot.send_photo(USER, BufferedInputFile(picture, filename="p.png"), caption="p")
    require((photo.photo[-1].width, photo.photo[-1].height) == (30, 20), f"{photo.photo}")
    again = await bot.send_photo(USER, photo.photo[-1].file_id)
    require(again.photo[-1].file_id, "no photo")
    captioned = await bot.edit_message_caption(chat_id=USER, message_id=photo.message_id, caption="q")
    require(captioned.caption == "q", f"{captioned}")
    album = MediaGroupBuilder(caption="album")
    album.add_photo(BufferedInputFile(picture, filename="1.png"))
    album.add_photo(BufferedInputFile(picture, filename="2.png"))
    both = await bot.send_media_group(USER, album.build())
    require(len(both) == 2 and both[0].media_group_id == both[1].media_group_id and both[0].caption == "album", f"{both}")
    document = await bot.send_document(USER, BufferedInputFile(b"bytes", filename="ü.txt"))
    content = await bot.download(document.document)
    require(content.read() == b"bytes" and document.document.file_name == "ü.txt", f"{document}")
    voice = await bot.send_voice(USER, BufferedInputFile(b"OggS", filename="v.ogg"), caption="v")
    require(voice.voice.mime_type and voice.caption == "v", f"{voice}")
    require(await bot.delete_message(USER, document.message_id), "not deleted")
    require(await bot.delete_messages(USER, [again.message_id, 999_999]), "not deleted")
    require(await bot.send_chat_action(USER, "typing"), "no action")

    menu = [BotCommand(command="help", description="Help")]
    await bot.set_my_commands(menu, scope=BotCommandScopeAllPrivateChats())
    await bot.set_my_commands(menu * 2, scope=BotCommandScopeChat(chat_id=USER), language_code="de")
    # Not compared as objects: one that came from a bot knows that bot.
    known = await bot.get_my_commands(scope=BotCommandScopeAllPrivateChats())
    require([(entry.command, entry.description) for entry in known] == [("help", "Help")], f"{known}")
    await bot.delete_my_commands(scope=BotCommandScopeChat(chat_id=USER), language_code="de")
    await bot.set_my_description("what it is")
    require((await bot.get_my_description()).description == "what it is", "another description")
    await bot.get_chat(USER)


async def refused(call, kind, words):
    try:
        result = await call
    except kind as error:
        require(words in str(error), f"{words!r} is not in {error}")
        return error
    raise AssertionError(f"{words!r} was expected, and it went well: {result}")


async def refusals(bot, users):
    """What Telegram refuses arrives as aiogram's own exceptions."""
    sent = await bot.send_message(USER, "x")
    wrong = TelegramBadRequest
    await refused(bot.send_message(USER, "x" * 4097), wrong, "message is too long")
    await refused(bot.send_message(USER, " "), wrong, "message text is empty")
    await refused(bot.send_message(404, "x"), wrong, "chat not found")
    await refused(bot.edit_message_text("x", chat_id=USER, message_id=sent.message_id), wrong, "message is not modified")
    await refused(bot.edit_message_text("y", chat_id=USER, message_id=999_999), wrong, "message to edit not found")
    await refused(bot.answer_callback_query("1"), wrong, "query is too old")
    await refused(bot.send_photo(USER, BufferedInputFile(b"no picture", filename="p.png")), wrong, "IMAGE_PROCESS_FAILED")
    await refused(bot.send_photo(USER, BufferedInputFile(png(9_000, 1_001), filename="p.png")), wrong, "PHOTO_INVALID_DIMENSIONS")
    await refused(bot.send_document(USER, BufferedInputFile(b"x", filename="x"), caption="x" * 1025), wrong, "caption is too long")
    one = [InputMediaDocument(media=BufferedInputFile(b"x", filename="x"))]
    await refused(bot.send_media_group(USER, one), wrong, "wrong number of messages")
    mixed = [*one, InputMediaPhoto(media=BufferedInputFile(png(), filename="p.png"))]
    await refused(bot.send_media_group(USER, mixed), wrong, "can't be mixed")
    large = await users.sends("document", b"x", size=21 * 1024 * 1024)
    shown = await users.ask("GET", f"/sim/chats/{USER}/messages?after={large['message_id'] - 1}")
    await refused(bot.get_file(shown[0]["document"]["file_id"]), wrong, "file is too big")

    await users.post("/sim/faults", {"method": "sendMessage", "kind": "429", "retry_after": 3})
    error = await refused(bot.send_message(USER, "x"), TelegramRetryAfter, "")
    require(error.retry_after == 3, f"{error}")
    await users.says("hello", OTHER)
    await users.post(f"/sim/users/{OTHER}/block", {})
    await refused(bot.send_message(OTHER, "x"), TelegramForbiddenError, "bot was blocked by the user")
    group = (await users.post("/sim/groups", {"title": "Old", "members": [USER]}))["chat_id"]
    moved = (await users.post(f"/sim/groups/{group}/migrate", {}))["chat_id"]
    error = await refused(bot.send_message(group, "x"), TelegramMigrateToChat, "")
    require(error.migrate_to_chat_id == moved, f"{error}")
    await bot.send_message(moved, "x")


@contextlib.asynccontextmanager
async def polling(bot, seen, errors):
    await bot.delete_webhook(drop_pending_updates=True)
    bot_dispatcher = dispatcher(seen, errors)
    task = asyncio.create_task(bot_dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False, polling_timeout=5))
    try:
        yield
    finally:
        await bot_dispatcher.stop_polling()
        await task


@contextlib.asynccontextmanager
async def webhook(bot, seen, errors):
    app, bot_dispatcher = web.Application(), dispatcher(seen, errors)
    SimpleRequestHandler(bot_dispatcher, bot, handle_in_background=False, secret_token="a-secret").register(app, path="/hook")
    setup_application(app, bot_dispatcher, bot=bot)
    # The bot's session is used after the server has ended.
    app.on_shutdown.clear()
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    await bot.set_webhook(f"http://127.0.0.1:{port}/hook", secret_token="a-secret", drop_pending_updates=True)
    info = await bot.get_webhook_info()
    require(info.url.endswith("/hook"), f"{info}")
    try:
        yield
    finally:
        await bot.delete_webhook()
        await runner.cleanup()


async def drive(url, token):
    session = AiohttpSession(api=TelegramAPIServer.from_base(url))
    session.middleware(Strict())
    counts, errors = {}, []
    async with aiohttp.ClientSession() as http, Bot(token, session=session) as bot:
        users = Users(http, url)
        for way in (polling, webhook):
            seen = Seen()
            async with way(bot, seen, errors):
                talk = asyncio.create_task(converse(bot, users, seen))
                while not talk.done() and not errors:
                    await asyncio.wait([talk], timeout=0.05)
                if errors:
                    talk.cancel()
                    break
                await talk
            counts[way.__name__] = dict(seen.counts)
        require(not errors, "\n".join(errors))
        await send(bot, users)
        require(await users.ask("GET", "/sim/violations") == [], "a bot that behaves was found at fault")
        await refusals(bot, users)
    return counts


def main():
    try:
        print(json.dumps(asyncio.run(drive(*sys.argv[1:]))))
    except Exception as error:  # Whatever goes wrong, the simulator isn't accepted.
        traceback.print_exc()
        sys.exit(f"refused: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
