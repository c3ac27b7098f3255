'use strict';
/* Text and entities to nodes. Offsets count UTF-16 units, which is what JavaScript's strings are made of. All text goes in
   as text, so what users and bots write is never read as HTML. */
const BLOCKS = new Set(['pre', 'blockquote', 'expandable_blockquote']);
const TAGS = { bold: 'strong', italic: 'em', underline: 'u', strikethrough: 's', code: 'code' };

function formatted(text, entities, act) {
  const sorted = (entities || [])
    .map(e => ({ ...e, end: Math.min(text.length, e.offset + e.length) }))
    .filter(e => e.end > e.offset)
    .sort((a, b) => a.offset - b.offset || b.end - a.end);
  return piece(text, 0, text.length, sorted, act);
}

function piece(text, from, to, entities, act) {
  const fragment = document.createDocumentFragment();
  let at = from;
  for (let i = 0; i < entities.length;) {
    const entity = entities[i++];
    if (entity.offset < at) continue;
    const inner = [];
    while (i < entities.length && entities[i].offset < entity.end) {
      inner.push({ ...entities[i], end: Math.min(entities[i].end, entity.end) });
      i++;
    }
    let before = text.slice(at, entity.offset);
    if (BLOCKS.has(entity.type) && before.endsWith('\n')) before = before.slice(0, -1);
    if (before) fragment.append(before);
    fragment.append(wrapped(entity, text.slice(entity.offset, entity.end), piece(text, entity.offset, entity.end, inner, act), act));
    at = entity.end;
    if (BLOCKS.has(entity.type) && text[at] === '\n' && at < to) at++;
  }
  if (at < to) fragment.append(text.slice(at, to));
  return fragment;
}

function wrapped(entity, source, content, act) {
  if (TAGS[entity.type]) return element(TAGS[entity.type], null, content);
  switch (entity.type) {
    case 'pre': return codeBlock(entity.language, source);
    case 'blockquote': return element('blockquote', null, content);
    case 'expandable_blockquote': {
      const quote = element('blockquote', 'expandable', content);
      quote.addEventListener('click', () => quote.classList.toggle('open'));
      return quote;
    }
    case 'spoiler': {
      const spoiler = element('span', 'spoiler', content);
      Object.assign(spoiler, { role: 'button', tabIndex: 0, title: 'Hidden text' });
      const open = event => {
        if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return;
        if (!spoiler.classList.contains('open')) { event.preventDefault(); event.stopPropagation(); }
        spoiler.classList.add('open');
      };
      spoiler.addEventListener('click', open, true);
      spoiler.addEventListener('keydown', open);
      return spoiler;
    }
    case 'text_link': return link(entity.url, content, act);
    case 'url': return link(source, content, act);
    case 'bot_command': {
      const command = element('button', 'link bot-command', content);
      command.type = 'button';
      command.addEventListener('click', () => act.send(source));
      return command;
    }
    case 'mention': case 'text_mention': case 'hashtag': return element('span', 'link', content);
    default: return content;
  }
}

/* The address if it is one that may be opened, else null: a text never becomes a script. */
function address(url) {
  for (const candidate of [url, `https:${'//'}${url}`]) {
    try {
      const parsed = new URL(candidate);
      if (['http:', 'https:', 'tg:'].includes(parsed.protocol)) return parsed;
      if (candidate.includes(':/')) return null;
    } catch { /* not complete: tried again with a scheme */ }
  }
  return null;
}

function link(url, content, act) {
  const target = address(url || '');
  if (!target) return element('span', null, content);
  const anchor = element('a', null, content);
  Object.assign(anchor, { href: target.href, target: '_blank', rel: 'noopener noreferrer nofollow', title: target.href });
  anchor.addEventListener('click', event => { if (act.follow(target)) event.preventDefault(); });
  return anchor;
}

function codeBlock(language, source) {
  const copy = element('button', 'copy', 'Copy');
  copy.type = 'button';
  copy.addEventListener('click', async () => {
    try { await navigator.clipboard.writeText(source); copy.textContent = 'Copied'; } catch { copy.textContent = 'Not allowed'; }
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  const head = element('header', null, element('span', null, language || 'code'));
  head.append(copy);
  const block = element('div', 'pre', head);
  if (language) block.dataset.language = language;
  block.append(element('pre', null, element('code', null, source)));
  return block;
}

function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== null && content !== undefined) made.append(content);
  return made;
}
