'use strict';
const $ = id => document.getElementById(id);
const query = new URLSearchParams(location.search);
const me = Math.max(1, parseInt(query.get('user'), 10) || 1);
let payload = query.get('start');
let chat = { bot: { commands: [] }, chat: {}, standing: 'unknown' };
let unread = 0, typingTimer, toastTimer, draftTimer, selected = -1;
const shown = new Map();      // message id → { node, message }
const waiting = new Map();    // query id → button
const answers = new Map();    // query id → answer that came before the press returned
const list = $('messages'), scroll = $('scroll'), input = document.querySelector('#composer textarea');
window.name = `user-${me}`;   // the links to the other user find or open that user's own tab

async function call(path, body, method = 'POST') {
  const options = body === undefined ? { method } : { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const result = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(result.error || `The server answered ${response.status}.`);
  return result;
}

/* ---- header ---- */
function drawHeader(header) {
  chat = header;
  const { bot } = chat, name = chat.chat.first_name || `User ${me}`;
  $('bot-name').textContent = bot.first_name;
  for (const id of ['avatar', 'welcome-avatar']) $(id).textContent = [...bot.first_name][0] || '';
  $('description').textContent = bot.description || `Press START and ${bot.first_name} will say hello.`;
  drawTitle();
  const people = [[1, 'Alice'], [2, 'Bob']];
  if (me > 2) people.push([me, name]);
  $('users').replaceChildren(...people.map(([id, label]) => {
    const tab = element('a', null, id === me ? name : label);
    Object.assign(tab, { href: `?user=${id}`, target: `user-${id}`, title: id === me ? `You are ${name}` : `Be ${label}, in a tab of their own` });
    if (id === me) tab.setAttribute('aria-current', 'page');
    return tab;
  }));
  drawFooter();
}

function drawTitle() {
  const count = document.hidden && unread ? `(${unread}) ` : '';
  document.title = `${count}${chat.bot.first_name} · ${chat.chat.first_name || me}`;
}

function drawFooter() {
  const blocked = chat.standing === 'banned', empty = shown.size === 0;
  const starting = blocked || empty || payload !== null;
  $('start').hidden = !starting;
  $('start').textContent = blocked ? 'UNBLOCK' : 'START';
  $('composer').hidden = starting;
  $('welcome').hidden = !empty;
  $('menu').hidden = chat.bot.commands.length === 0;
  $('block').hidden = blocked || empty;
  if (starting) showCommands([]);
}

/* ---- messages ---- */
const clock = at => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

function dayName(at) {
  const day = new Date(at), now = new Date(), before = new Date(now);
  before.setDate(now.getDate() - 1);
  if (day.toDateString() === now.toDateString()) return 'Today';
  if (day.toDateString() === before.toDateString()) return 'Yesterday';
  return day.toLocaleDateString([], { day: 'numeric', month: 'long' });
}

function ticks() {
  const holder = element('span', 'ticks');
  holder.innerHTML = '<svg viewBox="0 0 17 13" role="img" aria-label="sent"><path d="M1 7l3.2 3.5L11 2.5"/><path class="second" d="M7.5 9.8l.9.9L15.5 2.5"/></svg>';
  return holder;
}

function fillBubble(bubble, message) {
  const parts = [];
  const photo = message.photo && message.photo[message.photo.length - 1];
  if (photo) {
    const image = element('img');
    Object.assign(image, { src: `/sim/files/${encodeURIComponent(photo.file_id)}`, alt: message.text || 'Photo' });
    image.addEventListener('load', keepBottom);
    parts.push(image);
  }
  const kinds = { document: 'File', voice: 'Voice message', audio: 'Audio', video: 'Video', video_note: 'Video message', sticker: 'Sticker' };
  for (const [kind, label] of Object.entries(kinds)) {
    const media = message[kind];
    if (!media) continue;
    const file = element('a', 'file'), name = media.file_name || (media.emoji ? `${label} ${media.emoji}` : label);
    Object.assign(file, { href: `/sim/files/${encodeURIComponent(media.file_id)}`, download: media.file_name || 'file' });
    file.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 4v11M7 11l5 5 5-5M6 20h12"/></svg>';
    file.append(media.duration ? `${name} · ${media.duration} s` : name);
    parts.push(file);
  }
  if (message.location) {
    const { latitude, longitude } = message.location, { title = '', address = '' } = message.venue || {};
    parts.push(element('div', 'file', `📍 ${[title, address].filter(Boolean).join(', ') || `${latitude}, ${longitude}`}`));
  }
  if (message.contact) parts.push(element('div', 'file', `👤 ${message.contact.first_name} ${message.contact.phone_number}`));
  const text = element('div', 'text', formatted(message.text || '', message.entities, { send, follow }));
  const meta = element('span', 'meta');
  if (message.edited_ms && message.from.is_bot === false) meta.append(element('span', 'edited', 'edited'));
  if (message.at_ms) meta.append(element('time', null, clock(message.at_ms)));
  if (!message.from.is_bot) meta.append(ticks());
  text.append(meta);
  bubble.replaceChildren(...parts, text);
}

function keyboard(message) {
  const rows = (message.reply_markup || {}).inline_keyboard;
  if (!rows) return null;
  const keys = element('div', 'keyboard');
  for (const row of rows) {
    const line = element('div', 'row');
    for (const key of row) {
      const button = element('button', 'button', key.text);
      button.type = 'button';
      if (key.callback_data !== undefined) {
        button.dataset.callbackData = key.callback_data;
        button.addEventListener('click', () => press(button, message.message_id, key.callback_data));
      } else if (key.url) {
        button.dataset.url = key.url;
        button.addEventListener('click', () => visit(key.url));
      } else if (key.copy_text) {
        button.addEventListener('click', () => navigator.clipboard.writeText(key.copy_text.text).then(() => toast('Copied'), () => toast('Copying is not allowed here')));
      }
      line.append(button);
    }
    keys.append(line);
  }
  return keys;
}

function draw(message, isNew) {
  const known = shown.get(message.message_id);
  const markup = JSON.stringify(message.reply_markup);
  const side = message.from.is_bot ? 'from-bot' : 'from-user';
  let node = known && known.node;
  if (!node) {
    node = element('article', `message ${side}`);
    node.dataset.messageId = message.message_id;
    node.setAttribute('aria-label', `${message.from.first_name}, ${clock(message.at_ms)}`);
    node.append(element('div', 'bubble'));
    if (isNew) node.classList.add('new');
    const day = new Date(message.at_ms).toDateString(), last = [...shown.values()].pop();
    if (!last || new Date(last.message.at_ms).toDateString() !== day) list.append(element('div', 'day', dayName(message.at_ms)));
    list.append(node);
  }
  if (!known || known.message.text !== message.text || JSON.stringify(known.message.entities) !== JSON.stringify(message.entities)) {
    fillBubble(node.firstElementChild, message);
  }
  if (!known || known.markup !== markup) {
    node.querySelector('.keyboard')?.remove();
    const keys = keyboard(message);
    node.classList.toggle('has-keyboard', !!keys);
    if (keys) node.append(keys);
  }
  shown.set(message.message_id, { node, message, markup });
}

function remove(id, gently) {
  const known = shown.get(id);
  if (!known) return;
  shown.delete(id);
  known.node.classList.add('leaving');
  setTimeout(() => {
    known.node.remove();
    for (const day of list.querySelectorAll('.day')) {
      if (!day.nextElementSibling || day.nextElementSibling.classList.contains('day')) day.remove();
    }
  }, gently ? 160 : 0);
  drawFooter();
}

function drawDraft(draft) {
  clearTimeout(draftTimer);
  let node = list.querySelector('.draft');
  if (!draft) { node?.remove(); return; }
  if (!node) {
    node = element('article', 'message from-bot draft', element('div', 'bubble'));
    list.append(node);
  }
  // An empty draft shows that something is being thought about.
  fillBubble(node.firstElementChild, { ...draft, text: draft.text || 'Thinking…', from: { is_bot: true } });
  draftTimer = setTimeout(() => drawDraft(null), 30000);
}

/* ---- scrolling ---- */
let pinned = true;
const atBottom = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 90;
function toBottom(smooth) { scroll.scrollTo({ top: scroll.scrollHeight, behavior: smooth ? 'smooth' : 'instant' }); pinned = true; read(); }
function keepBottom() { if (pinned) toBottom(false); }
function read() { if (!document.hidden) unread = 0; drawUnread(); }
function drawUnread() {
  $('down').hidden = pinned;
  $('unread').hidden = unread === 0;
  $('unread').textContent = unread;
  drawTitle();
}
scroll.addEventListener('scroll', () => { pinned = atBottom(); if (pinned) read(); else drawUnread(); }, { passive: true });
document.addEventListener('visibilitychange', () => { if (pinned) read(); drawTitle(); });
new ResizeObserver(keepBottom).observe(list);
new ResizeObserver(keepBottom).observe(scroll);
$('down').addEventListener('click', () => toBottom(true));

/* ---- what happens ---- */
function typing(on) {
  clearTimeout(typingTimer);
  $('typing').hidden = !on;
  $('status').hidden = on;
  if (on) typingTimer = setTimeout(() => typing(false), 5000);
}
function seen() { for (const node of list.querySelectorAll('.from-user:not(.seen)')) node.classList.add('seen'); }

const happenings = {
  snapshot(event) {
    $('offline').hidden = true;
    const alive = new Set(event.messages.map(message => message.message_id));
    for (const id of [...shown.keys()]) if (!alive.has(id)) remove(id, false);
    const lastBot = Math.max(0, ...event.messages.filter(message => message.from.is_bot).map(message => message.message_id));
    for (const message of event.messages) {
      draw(message, false);
      if (message.message_id < lastBot) shown.get(message.message_id).node.classList.add('seen');
    }
    drawHeader({ bot: event.bot, chat: event.chat, standing: event.standing });
    toBottom(false);
  },
  message({ message }) {
    if (message.from.is_bot) { typing(false); drawDraft(null); seen(); }
    draw(message, true);
    if (message.from.is_bot && (!pinned || document.hidden)) unread++;
    if (!message.from.is_bot && message.from.id === me) toBottom(true);
    keepBottom(); drawUnread(); drawFooter();
  },
  edited({ message }) { if (shown.has(message.message_id)) { seen(); draw(message, false); } },
  deleted({ message_id }) { remove(message_id, true); },
  action({ action }) { seen(); typing(action !== 'cancel'); },
  draft(draft) { typing(false); seen(); drawDraft(draft); keepBottom(); },
  answered(answer) {
    const button = waiting.get(answer.query_id);
    if (!button) { answers.set(answer.query_id, answer); setTimeout(() => answers.delete(answer.query_id), 5000); return; }
    waiting.delete(answer.query_id);
    button.classList.remove('waiting');
    if (answer.url) visit(answer.url);
    else if (answer.text && answer.show_alert) { $('alert-text').textContent = answer.text; $('alert').showModal(); }
    else if (answer.text) toast(answer.text);
  },
  standing({ standing }) { chat.standing = standing; drawFooter(); },
  async commands() { drawHeader(await call(`/sim/chats/${me}`, undefined, 'GET')); },
};

function listen() {
  const source = new EventSource(`/sim/chats/${me}/events`);
  source.onmessage = event => { const data = JSON.parse(event.data); happenings[data.type]?.(data); };
  source.onerror = () => {
    $('offline').hidden = false;
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 1500);
  };
}

/* ---- what the user does ---- */
function toast(text) {
  clearTimeout(toastTimer);
  $('toast').textContent = text;
  $('toast').hidden = false;
  toastTimer = setTimeout(() => { $('toast').hidden = true; }, 3500);
}

async function send(text) {
  try { await call(`/sim/users/${me}/messages`, { text }); return true; } catch (error) { toast(error.message); return false; }
}

async function press(button, message_id, data) {
  if (button.classList.contains('waiting')) return;
  button.classList.add('waiting');
  try {
    const { query_id } = await call(`/sim/users/${me}/press`, { message_id, data });
    waiting.set(query_id, button);
    if (answers.has(query_id)) happenings.answered(answers.get(query_id));
    setTimeout(() => { if (waiting.delete(query_id)) button.classList.remove('waiting'); }, 15000);
  } catch (error) {
    button.classList.remove('waiting');
    toast(error.message);
  }
}

/* Deep links to this bot are followed here; true if it was one. */
function follow(target) {
  const inside = target.protocol === 'tg:' ? target.searchParams.get('domain') : ['t.me', 'telegram.me'].includes(target.hostname) && target.pathname.slice(1);
  if (!inside || inside.toLowerCase() !== chat.bot.username.toLowerCase()) return false;
  const start = target.searchParams.get('start');
  if (start) send(`/start ${start}`);
  return true;
}
function visit(url) {
  const target = address(url);
  if (target && !follow(target)) window.open(target.href, '_blank', 'noopener');
}

$('start').addEventListener('click', async () => {
  if (chat.standing === 'banned') await call(`/sim/users/${me}/unblock`).catch(error => toast(error.message));
  else if (await send(payload ? `/start ${payload}` : '/start') && payload !== null) {
    payload = null;
    history.replaceState(null, '', `?user=${me}`);
  }
  drawFooter();
  input.focus();
});
$('block').addEventListener('click', () => call(`/sim/users/${me}/block`).catch(error => toast(error.message)));

$('composer').addEventListener('submit', async event => {
  event.preventDefault();
  const text = input.value;
  if (!text.trim()) return;
  input.value = '';
  grow();
  if (!await send(text) && !input.value) { input.value = text; grow(); }
});

function grow() {
  $('send').disabled = !input.value.trim();
  input.style.height = 'auto';
  input.style.height = `${Math.max(46, input.scrollHeight)}px`;
  const typed = /^\/([a-z0-9_]*)$/i.exec(input.value);
  showCommands(typed ? chat.bot.commands.filter(({ command }) => command.startsWith(typed[1].toLowerCase())) : []);
}
input.addEventListener('input', grow);
input.addEventListener('keydown', event => {
  if (event.isComposing) return;
  const options = [...$('commands').children];
  if (!$('commands').hidden && ['ArrowDown', 'ArrowUp'].includes(event.key)) {
    event.preventDefault();
    choose((selected + (event.key === 'ArrowDown' ? 1 : -1) + options.length) % options.length);
  } else if (!$('commands').hidden && event.key === 'Tab') {
    event.preventDefault();
    input.value = `${options[Math.max(0, selected)].dataset.command} `;
    grow();
  } else if (event.key === 'Escape') {
    showCommands([]);
  } else if (event.key === 'Enter' && !event.shiftKey) {
    event.preventDefault();
    if (!$('commands').hidden && selected >= 0) options[selected].click();
    else $('composer').requestSubmit();
  }
});

/* ---- command menu ---- */
function choose(index) {
  selected = index;
  [...$('commands').children].forEach((option, at) => option.setAttribute('aria-selected', at === index));
  $('commands').children[index]?.scrollIntoView({ block: 'nearest' });
}
function showCommands(commands) {
  selected = -1;
  $('commands').hidden = commands.length === 0;
  $('menu').setAttribute('aria-expanded', commands.length > 0);
  $('commands').replaceChildren(...commands.map(({ command, description }) => {
    const option = element('button', 'command', element('b', null, `/${command}`));
    option.type = 'button';
    option.role = 'option';
    option.dataset.command = `/${command}`;
    option.append(element('span', null, description));
    option.addEventListener('click', () => { input.value = ''; grow(); send(`/${command}`); input.focus(); });
    return option;
  }));
}
$('menu').addEventListener('click', () => { showCommands($('commands').hidden ? chat.bot.commands : []); input.focus(); });
document.addEventListener('click', event => { if (!event.target.closest('footer')) showCommands([]); });

listen();
