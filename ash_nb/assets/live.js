// The live grid of the stylization preview: an anywidget module. Python (ash_nb.look.live) says in traits what there is
// to see and to set, this module shows it and sends what the hand does as messages { n, do, ... }. Python answers each
// with `answered = n`; until then one message is under way and of a slider that moves on only its newest value waits.

const CLOSEST = 24;   // largest zoom
const STEP = 1.25;    // zoom of one turn of the wheel or one key
const CLICK = 5;      // pixels that a pointer may move and still click
const PATIENCE = 200; // milliseconds before "working" is shown
const MESSAGE = 8e6;  // bytes of a file that is sent as it is
const LARGEST = 2048; // longest side of what is sent of a larger one
const DARK = 'rgba(0, 0, 0, .85)';
const LIGHT = 'rgba(255, 255, 255, .95)';

const between = (low, value, high) => Math.max(low, Math.min(high, value));

// An element with attributes (on...: listeners; text: its text) and children.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value;
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const bytesOf = data => data
  ? new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength)
  : new Uint8Array();

// A canvas of a picture's own size; a label map (a byte a pixel) takes its colours from the palette.
function pictureOf(bytes, width, height, palette) {
  const canvas = make('canvas');
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  const to = image.data;
  for (let k = 0; k < width * height; k++) {
    const from = palette ? palette[bytes[k]] ?? [0, 0, 0] : null;
    for (let c = 0; c < 3; c++) to[4 * k + c] = from ? from[c] : bytes[3 * k + c];
    to[4 * k + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

const rgbOf = hex => [1, 3, 5].map(k => parseInt(hex.slice(k, k + 2), 16));
const swatch = colour => make('span', { class: 'swatch', style: `background: ${colour}`, 'aria-hidden': 'true' });

// One message at a time; of a setting that is asked for again while it waits, the newest value counts.
function asker(model, root) {
  let queue = [];
  let waiting = null;
  let sign = null;
  const next = () => {
    clearTimeout(sign);
    root.classList.remove('busy');
    root.setAttribute('aria-busy', 'false');
    waiting = queue.shift() ?? null;
    if (!waiting) return;
    const { buffers, ...content } = waiting;
    model.send(content, undefined, buffers);
    root.setAttribute('aria-busy', 'true');
    sign = setTimeout(() => root.classList.add('busy'), PATIENCE);
  };
  const answer = () => { if (waiting && model.get('answered') === waiting.n) next(); };
  model.on('change:answered', answer);
  return {
    ask(event) {
      queue = queue.filter(e => !(event.do === 'set' && e.do === 'set' && e.name === event.name));
      queue.push({ n: Math.floor(Math.random() * 2 ** 52), ...event });
      if (!waiting) next();
    },
    idle: () => !waiting,
    // Whether the hand has already set this anew: an older answer must not take it back.
    ahead: name => queue.some(e => e.name === name)
      || Boolean(waiting && waiting.name === name && waiting.n !== model.get('answered')),
    stop: () => model.off('change:answered', answer),
  };
}

// ---- controls

function helpOf(control) {
  return control.help ? { title: control.help } : {};
}

function range(control, ask) {
  const number = make('output', { class: 'number' });
  const input = make('input', {
    type: 'range', min: control.low, max: control.high, step: control.step, 'aria-label': control.label,
    ...helpOf(control),
  });
  const show = value => {
    number.textContent = control.options ? control.options[value]?.[0] ?? '' : Number(value).toFixed(2);
    input.setAttribute('aria-valuetext', number.textContent);
  };
  const tell = final => {
    show(input.value);
    ask({ do: 'set', name: control.name, value: Number(input.value), final });
  };
  let held = false;
  input.addEventListener('pointerdown', () => { held = true; });
  input.addEventListener('pointerup', () => { held = false; });
  input.addEventListener('input', () => { if (control.live) tell(false); else show(input.value); });
  input.addEventListener('change', () => { held = false; tell(true); });
  const row = make('label', { class: 'row' }, make('span', { text: control.label }), input, number);
  return { node: row, input, set(value) { if (!held) { input.value = value; show(value); } } };
}

function steps(control, ask, idle) {
  const slider = range({ ...control, low: 0, high: control.options.length - 1, step: 1 }, ask);
  if (control.options.length < 2) return slider;
  let clock = null;
  const play = make('button', { type: 'button', class: 'small', text: '▶', 'aria-pressed': 'false' });
  const stop = () => {
    clearInterval(clock);
    clock = null;
    play.textContent = '▶';
    play.setAttribute('aria-pressed', 'false');
  };
  const forward = () => {
    if (!idle()) return;
    if (!play.isConnected) return stop();
    slider.input.value = (Number(slider.input.value) + 1) % control.options.length;
    slider.input.dispatchEvent(new Event('change'));
  };
  play.setAttribute('aria-label', `Play the ${control.label}s`);
  play.title = `Play the ${control.label}s of the run`;
  play.addEventListener('click', () => {
    if (clock) return stop();
    clock = setInterval(forward, 700);
    play.textContent = '■';
    play.setAttribute('aria-pressed', 'true');
    forward();
  });
  return { ...slider, node: make('div', { class: 'played' }, slider.node, play), stop };
}

function select(control, ask) {
  const input = make('select', {
    'aria-label': control.label, ...helpOf(control),
    onchange: () => ask({ do: 'set', name: control.name, value: control.options[input.selectedIndex][1], final: true }),
  }, ...control.options.map(([text]) => make('option', { text })));
  const row = make('label', { class: 'row' }, make('span', { text: control.label }), input);
  return { node: row, set(value) { input.selectedIndex = control.options.findIndex(o => o[1] === value); } };
}

// Pictures to choose from, and a button for a file of one's own.
function strip(control, ask, model, take) {
  const box = make('div', { class: 'thumbs' });
  const file = make('input', { type: 'file', accept: 'image/*', hidden: true, 'aria-label': `${control.label} file` });
  const choose = make('button', {
    type: 'button', class: 'small', text: 'your own …',
    title: `Choose a picture file as ${control.label}, or drop one here`,
    onclick: () => file.click(),
  });
  choose.setAttribute('aria-label', `Choose a file as ${control.label}`);
  file.addEventListener('change', () => { if (file.files[0]) take(control.name, file.files[0]); file.value = ''; });
  let chosen = null;
  const press = () => {
    for (const b of box.children) b.setAttribute('aria-pressed', String(b.dataset.name === chosen));
  };
  const redraw = () => {
    const { names, width, height } = model.get('thumbs')[control.name] ?? { names: [] };
    const bytes = bytesOf(model.get(`thumbs_${control.name}`));
    box.replaceChildren(...names.map((name, k) => {
      const part = bytes.subarray(3 * k * width * height, 3 * (k + 1) * width * height);
      const picture = pictureOf(part, width, height);
      picture.setAttribute('aria-hidden', 'true');
      const told = `${control.label}: ${name}`;
      const b = make('button', { type: 'button', class: 'thumb', 'aria-label': told, title: name },
        picture);
      b.dataset.name = name;
      b.addEventListener('click', () => ask({ do: 'set', name: control.name, value: name, final: true }));
      return b;
    }));
    press();
  };
  redraw();
  const node = make('div', { class: 'strip', role: 'group', 'aria-label': control.label },
    make('div', { class: 'head' }, make('b', { text: control.label }), choose, file), box);
  node.dataset.drop = control.name;
  return { node, redraw, set(value) { chosen = value; press(); } };
}

function button(control, ask, press) {
  const node = make('button', { type: 'button', text: control.label, ...helpOf(control) });
  node.addEventListener('click', () => press(control.name));
  return { node, set() {} };
}

// ---- panels

function panelOf(k, meta) {
  const canvas = make('canvas', { role: 'img' });
  const note = make('span', { class: 'note' });
  const title = make('b', { text: meta.title });
  const figure = make('figure', {}, make('div', { class: 'view' }, canvas), make('figcaption', {}, title, note));
  figure.dataset.panel = meta.title;
  return { k, meta, figure, canvas, note, source: null, data: null, bytes: null };
}

function describe(panel) {
  const { meta, canvas, note, figure } = panel;
  note.textContent = meta.note ?? '';
  figure.classList.toggle('stale', Boolean(meta.stale));
  canvas.setAttribute('aria-label', meta.note ? `${meta.title}: ${meta.note}` : meta.title);
}

// The part of a picture that a view shows, in the picture's pixels.
function part(meta, view) {
  const width = meta.width / view.zoom;
  const height = meta.height / view.zoom;
  return [view.x * meta.width - width / 2, view.y * meta.height - height / 2, width, height];
}

function paint(context, panel, view, box) {
  const [x, y, width, height] = part(panel.meta, view);
  context.imageSmoothingEnabled = panel.meta.kind !== 'labels' && box[2] / width < 3;
  context.drawImage(panel.source, x, y, width, height, ...box);
}

// Where a picture lies on a canvas of another shape.
function inside(meta, canvas) {
  const scale = Math.min(canvas.width / meta.width, canvas.height / meta.height);
  const [width, height] = [meta.width * scale, meta.height * scale];
  return [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
}

function lines(context, x, y) {
  const { width, height } = context.canvas;
  for (const [colour, thick] of [[DARK, 3], [LIGHT, 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, height);
    context.moveTo(0, y);
    context.lineTo(width, y);
    context.stroke();
  }
}

function render({ model, el }) {
  const root = make('div', { class: 'ash-live', 'data-lm-suppress-shortcuts': 'true', 'aria-busy': 'false' });
  el.append(root);
  const view = { zoom: 1, x: 0.5, y: 0.5 };
  const whole = { zoom: 1, x: 0.5, y: 0.5 };
  const { ask, idle, ahead, stop } = asker(model, root);
  const listening = [];
  const on = (name, act) => {
    model.on(name, act);
    listening.push([name, act]);
  };
  let panels = [];
  let cross = null; // the point under the pointer, [u, v], parts of the picture
  let frame = null;
  let palette = [];
  const wipe = { on: false, at: 0.5 };

  const colours = () => {
    palette = Array(256).fill([0, 0, 0]);
    model.get('classes').forEach(c => { palette[c.id] = rgbOf(c.colour); });
  };
  const linked = () => panels.filter(p => p.meta.linked);
  const redraw = () => { frame ??= requestAnimationFrame(() => { frame = null; drawAll(); }); };

  // -- the view

  function keepInside() {
    const half = 0.5 / (view.zoom = between(1, view.zoom, CLOSEST));
    view.x = between(half, view.x, 1 - half);
    view.y = between(half, view.y, 1 - half);
    shownZoom.textContent = view.zoom > 1.01 ? `${view.zoom.toFixed(1)} ×` : 'whole picture';
    grid.classList.toggle('near', view.zoom > 1.01);
  }

  function zoomAt(factor, [u, v]) {
    const before = view.zoom;
    view.zoom = between(1, before * factor, CLOSEST);
    view.x = u - (u - view.x) * before / view.zoom; // what is under the pointer stays there
    view.y = v - (v - view.y) * before / view.zoom;
    redraw();
  }

  function drawAll() {
    keepInside();
    for (const panel of panels) {
      if (!panel.source || !panel.canvas.width) continue;
      const context = panel.canvas.getContext('2d');
      context.clearRect(0, 0, panel.canvas.width, panel.canvas.height);
      paint(context, panel, panel.meta.linked ? view : whole, inside(panel.meta, panel.canvas));
      if (cross && panel.meta.linked) lines(context, ...onCanvas(panel.canvas));
    }
    if (wipe.on) drawWipe();
    readOut();
  }

  const onCanvas = canvas => [
    ((cross[0] - view.x) * view.zoom + 0.5) * canvas.width,
    ((cross[1] - view.y) * view.zoom + 0.5) * canvas.height,
  ];

  function under(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [
      view.x + ((event.clientX - box.left) / box.width - 0.5) / view.zoom,
      view.y + ((event.clientY - box.top) / box.height - 0.5) / view.zoom,
    ];
  }

  const pixel = ({ meta }, [u, v]) => [
    between(0, Math.floor(u * meta.width), meta.width - 1),
    between(0, Math.floor(v * meta.height), meta.height - 1),
  ];

  // -- what the panels hold under the pointer

  function valueOf(panel, at) {
    const [x, y] = pixel(panel, at);
    const place = y * panel.meta.width + x;
    if (panel.meta.kind !== 'labels') {
      const rgb = [...panel.bytes.subarray(3 * place, 3 * place + 3)];
      return [`rgb(${rgb})`, panel.meta.kind === 'change' ? '' : rgb.join(' ')];
    }
    const found = model.get('classes').find(c => c.id === panel.bytes[place]);
    return [found?.colour ?? '#000', found?.name ?? 'not counted'];
  }

  function readOut() {
    const shown = linked().filter(p => p.source && p.meta.kind !== 'change');
    const rows = shown.map(p => {
      const [colour, text] = cross ? valueOf(p, cross) : ['transparent', '–'];
      const title = make('th', { scope: 'row', text: p.meta.title });
      return make('tr', {}, title, make('td', {}, swatch(colour), ` ${text}`));
    });
    const [x, y] = cross && shown.length ? pixel(shown[0], cross) : [];
    const where = cross ? `Pixel (${x}, ${y})` : 'Point at a panel to read its pixels';
    readout.replaceChildren(make('caption', { text: where }), make('tbody', {}, ...rows));
  }

  function asked(panel, at) {
    const isLabel = panel?.meta.kind === 'labels';
    if (isLabel) {
      const [x, y] = pixel(panel, at);
      const id = panel.bytes[y * panel.meta.width + x];
      if (model.get('classes').some(c => c.id === id)) return ask({ do: 'toggle', id });
    }
    ask({ do: 'point', x: at[0], y: at[1] });
  }

  // -- hands on a panel: pointer, wheel, keys

  const down = new Map();
  let start = null;
  let apart = 0;
  const distance = () => {
    const [a, b] = [...down.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };

  function listen(panel) {
    const { canvas } = panel;
    canvas.addEventListener('pointerdown', event => {
      if (event.button) return;
      grid.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, [event.clientX, event.clientY]);
      start = { at: under(canvas, event), x: event.clientX, y: event.clientY, moved: down.size > 1 };
      if (down.size === 2) apart = distance();
    });
    canvas.addEventListener('pointermove', event => {
      const at = under(canvas, event);
      if (down.has(event.pointerId)) down.set(event.pointerId, [event.clientX, event.clientY]);
      if (down.size === 2) {
        const now = distance();
        zoomAt(now / apart, at);
        apart = now;
      } else if (down.size === 1 && start) {
        start.moved ||= Math.hypot(event.clientX - start.x, event.clientY - start.y) > CLICK;
        if (start.moved) {
          view.x -= at[0] - start.at[0];
          view.y -= at[1] - start.at[1];
        }
      }
      cross = at.map(x => between(0, x, 0.999999));
      redraw();
    });
    const up = event => {
      const click = down.has(event.pointerId) && start && !start.moved && event.type === 'pointerup';
      down.delete(event.pointerId);
      if (click) asked(panel, under(canvas, event).map(x => between(0, x, 0.999999)));
    };
    canvas.addEventListener('pointerup', up);
    canvas.addEventListener('pointercancel', up);
    canvas.addEventListener('pointerleave', () => { if (!down.size) { cross = null; redraw(); } });
    canvas.addEventListener('wheel', event => {
      const out = event.deltaY > 0;
      if (!event.ctrlKey && (document.activeElement !== grid || (out && view.zoom <= 1))) return; // the page scrolls
      event.preventDefault();
      zoomAt(out ? 1 / STEP : STEP, under(canvas, event));
    }, { passive: false });
    canvas.addEventListener('dblclick', () => all());
  }

  function all() {
    view.zoom = 1;
    redraw();
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function key(event) {
    if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = cross ?? [view.x, view.y];
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const stride = 0.05 / view.zoom;
      cross = [between(0, at[0] + dx * stride, 0.999999), between(0, at[1] + dy * stride, 0.999999)];
      const reach = 0.4 / view.zoom; // the view follows
      view.x = between(cross[0] - reach, view.x, cross[0] + reach);
      view.y = between(cross[1] - reach, view.y, cross[1] + reach);
      redraw();
    } else if (event.key === '+' || event.key === '=') zoomAt(STEP, at);
    else if (event.key === '-') zoomAt(1 / STEP, at);
    else if (event.key === '0') all();
    else if (event.key === 'Enter') asked(null, at);
    else if (event.key === 'Escape') grid.blur();
    else return;
    event.preventDefault();
  }

  // -- wipe: two panels in one, with a line between them

  const wipeCanvas = make('canvas', { role: 'img', 'aria-label': 'Wipe between two panels' });
  const wipeLine = make('input', {
    type: 'range', min: 0, max: 1, step: 0.01, value: 0.5, 'aria-label': 'Where the left panel ends',
  });
  const left = make('select', { 'aria-label': 'Left panel' });
  const right = make('select', { 'aria-label': 'Right panel' });
  const wipeBox = make('figure', { class: 'wipe', hidden: true }, make('div', { class: 'view' }, wipeCanvas), wipeLine,
    make('div', { class: 'pair' }, left, right));
  const panelNamed = title => linked().find(p => p.meta.title === title);
  [left, right].forEach(s => s.addEventListener('change', redraw));
  wipeLine.addEventListener('input', () => { wipe.at = Number(wipeLine.value); redraw(); });
  wipeCanvas.addEventListener('pointermove', event => {
    if (!event.buttons) return;
    const box = wipeCanvas.getBoundingClientRect();
    wipe.at = between(0, (event.clientX - box.left) / box.width, 1);
    wipeLine.value = wipe.at;
    redraw();
  });

  function wipeNames() {
    const names = linked().map(p => p.meta.title);
    for (const [s, usual] of [[left, 'AdaIN'], [right, 'ASH']]) {
      const before = s.value || usual;
      s.replaceChildren(...names.map(text => make('option', { text })));
      s.value = names.includes(before) ? before : names[0];
    }
  }

  function drawWipe() {
    const [a, b] = [panelNamed(left.value), panelNamed(right.value)];
    if (!a?.source || !b?.source) return;
    const context = wipeCanvas.getContext('2d');
    const { width, height } = wipeCanvas;
    const x = Math.round(wipe.at * width);
    paint(context, b, view, [0, 0, width, height]);
    context.save();
    context.beginPath();
    context.rect(0, 0, x, height);
    context.clip();
    paint(context, a, view, [0, 0, width, height]);
    context.restore();
    context.fillStyle = DARK;
    context.fillRect(x - 2, 0, 4, height);
    context.fillStyle = LIGHT;
    context.fillRect(x - 1, 0, 2, height);
  }

  // -- files

  // A large file is made smaller first, because servers refuse long messages.
  async function reduced(file) {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
    const small = make('canvas');
    small.width = Math.round(picture.width * scale);
    small.height = Math.round(picture.height * scale);
    const context = small.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(picture, 0, 0, small.width, small.height);
    return new Promise(done => small.toBlob(done, 'image/jpeg', 0.95));
  }

  async function take(name, file) {
    try {
      const blob = file.size > MESSAGE ? await reduced(file) : file;
      ask({ do: 'file', name, file: file.name, buffers: [await blob.arrayBuffer()] });
      ask({ do: 'settle' });
    } catch {
      status.textContent = `${file.name} is no picture that this browser can read: choose a JPEG or PNG file`;
    }
  }

  root.addEventListener('dragover', event => { event.preventDefault(); root.classList.add('drop'); });
  root.addEventListener('dragleave', () => root.classList.remove('drop'));
  root.addEventListener('drop', event => {
    event.preventDefault();
    event.stopPropagation();
    root.classList.remove('drop');
    const file = event.dataTransfer.files[0];
    if (file) take(event.target.closest('[data-drop]')?.dataset.drop ?? 'image', file);
  });

  // -- the house: what stands where

  const status = make('p', { class: 'message', role: 'status' });
  const working = make('span', { class: 'working', text: 'working …', 'aria-hidden': 'true' });
  const shownZoom = make('span', { class: 'zoomed' });
  const tool = (text, label, act) => {
    const b = make('button', { type: 'button', class: 'small', text, 'aria-label': label, title: label });
    b.addEventListener('click', act);
    return b;
  };
  const centre = () => cross ?? [view.x, view.y];
  const wipeButton = tool('wipe', 'Wipe between two panels', () => {
    wipe.on = !wipe.on;
    wipeBox.hidden = !wipe.on;
    wipeButton.setAttribute('aria-pressed', String(wipe.on));
    redraw();
  });
  wipeButton.setAttribute('aria-pressed', 'false');
  const grid = make('div', {
    class: 'panels', role: 'group', tabindex: 0,
    'aria-label': 'Panels. Arrow keys move the cross, plus and minus zoom, 0 shows all, '
      + 'Enter asks for the classes there.',
  });
  const readout = make('table', { class: 'readout' });
  const tools = make('div', { class: 'tools', role: 'group', 'aria-label': 'View' },
    tool('−', 'Zoom out', () => zoomAt(1 / STEP, centre())), tool('+', 'Zoom in', () => zoomAt(STEP, centre())),
    tool('all', 'Show the whole picture', all), wipeButton, shownZoom, status, working);
  const hint = make('p', { class: 'hint', text: 'Drag to move, wheel over a clicked panel (or ctrl and wheel, or two '
    + 'fingers) to zoom. Click a picture for its classes; click a region of a segmentation to switch '
    + 'that class off or on.' });
  const point = make('section', { class: 'point', 'aria-label': 'Classes at a point', hidden: true });
  const sheet = make('section', { class: 'sheet', 'aria-label': 'Contact sheet', hidden: true });
  const settings = { class: 'code', readonly: true, hidden: true, rows: 12, 'aria-label': 'Settings as code' };
  const code = make('textarea', settings);
  const classBox = make('div', { class: 'chips', role: 'group', 'aria-label': 'Classes that ASH is given' });
  const groups = {};
  const groupOf = name => {
    if (groups[name]) return groups[name];
    const inside = make('div', { class: `group ${name}` });
    groups[name] = inside;
    return inside;
  };
  const parts = {};
  const kinds = { range, steps, select, strip, button };
  const press = async name => {
    if (name !== 'code') return ask({ do: 'press', name });
    code.value = model.get('code');
    code.hidden = false;
    code.rows = code.value.split('\n').length;
    code.select();
    await navigator.clipboard?.writeText(code.value).then(
      () => { status.textContent = 'The settings are copied as code.'; },
      () => { status.textContent = 'Copy the settings below.'; });
  };

  function buildControls() {
    for (const c of model.get('controls')) {
      const third = { steps: idle, strip: model, button: press }[c.kind];
      parts[c.name] = kinds[c.kind](c, ask, third, take);
      groupOf(c.group).append(parts[c.name].node);
    }
    setValues();
  }

  function setValues() {
    for (const [name, value] of Object.entries(model.get('values'))) {
      if (!ahead(name)) parts[name]?.set(value);
    }
  }

  function chips() {
    colours();
    const kept = model.get('classes').filter(c => c.seen || c.gain !== 1);
    const focused = document.activeElement?.dataset?.id;
    classBox.replaceChildren(...kept.map(c => {
      const off = c.gain <= 0;
      const counts = off ? 'is off' : c.gain === 1 ? 'is on' : `counts ${c.gain.toFixed(1)} times`;
      const b = make('button', {
        type: 'button', class: 'chip', 'aria-pressed': String(!off), title: `${c.name} ${counts}: press to switch`,
      }, swatch(c.colour), c.gain === 1 || off ? c.name : `${c.name} × ${c.gain.toFixed(1)}`);
      b.dataset.id = c.id;
      b.addEventListener('click', () => ask({ do: 'toggle', id: c.id }));
      return b;
    }));
    if (focused !== undefined) [...classBox.children].find(b => b.dataset.id === focused)?.focus();
  }

  function build() {
    const metas = model.get('panels');
    const same = metas.length === panels.length && metas.every((m, k) => m.title === panels[k].meta.title);
    if (!same) {
      panels.forEach(p => sizes.unobserve(p.canvas));
      panels = metas.map((m, k) => panelOf(k, m));
      grid.replaceChildren(...panels.map(p => p.figure));
      panels.forEach(p => { sizes.observe(p.canvas); if (p.meta.linked) listen(p); });
    }
    const first = metas.find(m => m.linked);
    panels.forEach((p, k) => {
      const now = metas[k];
      const data = model.get(`pixels_${k}`);
      const other = data !== p.data || now.kind !== p.meta.kind
        || now.width !== p.meta.width || now.height !== p.meta.height;
      p.meta = now;
      if (data?.byteLength === now.width * now.height * (now.kind === 'labels' ? 1 : 3) && (other || !p.source)) {
        p.bytes = bytesOf(p.data = data);
        p.source = pictureOf(p.bytes, now.width, now.height, now.kind === 'labels' ? palette : null);
      }
      describe(p);
    });
    if (first) root.style.setProperty('--shape', `${first.width} / ${first.height}`);
    if (!same) wipeNames();
    redraw();
  }

  function showPoint() {
    const p = model.get('point');
    point.hidden = !p.rows?.length;
    if (point.hidden) return;
    const line = (...texts) => texts.map(text => make('td', { text }));
    const rows = p.rows.map(r => make('tr', {}, make('th', { scope: 'row' }, swatch(r.colour), ` ${r.name}`),
      ...line(...r.values.map(v => `${(100 * v).toFixed(0)} %`))));
    const head = make('tr', {}, make('td'), ...p.columns.map(text => make('th', { scope: 'col', text })));
    const close = tool('close', 'Close the classes at a point', () => { point.hidden = true; });
    const turn = make('button', { type: 'button', class: 'small', text: p.action });
    turn.addEventListener('click', () => ask({ do: 'toggle', id: p.id }));
    point.replaceChildren(make('table', {}, make('caption', { text: p.title }), make('thead', {}, head),
      make('tbody', {}, ...rows)), make('div', { class: 'tools' }, turn, close));
  }

  function showSheet() {
    const s = model.get('sheet');
    sheet.hidden = !s.rows?.length;
    if (sheet.hidden) return;
    const bytes = bytesOf(model.get('sheet_pixels'));
    const size = 3 * s.width * s.height;
    let k = 0;
    const body = s.rows.map(row => make('tr', {}, make('th', { scope: 'row', text: `${s.names[0]} ${row}` }),
      ...s.columns.map(column => {
        const picture = pictureOf(bytes.subarray(size * k, size * ++k), s.width, s.height);
        picture.setAttribute('aria-hidden', 'true');
        const values = { [s.names[0]]: row, [s.names[1]]: column };
        const b = make('button', { type: 'button', class: 'cell', title: 'Take these settings',
          'aria-label': `${s.names[0]} ${row}, ${s.names[1]} ${column}` }, picture);
        b.addEventListener('click', () => ask({ do: 'pick', values }));
        return make('td', {}, b);
      })));
    const titles = s.columns.map(c => make('th', { scope: 'col', text: `${s.names[1]} ${c}` }));
    const head = make('tr', {}, make('td'), ...titles);
    sheet.replaceChildren(make('div', { class: 'tools' }, make('b', { text: s.title }),
      tool('close', 'Close the contact sheet', () => { sheet.hidden = true; })),
    make('table', {}, make('thead', {}, head), make('tbody', {}, ...body)));
  }

  const sizes = new ResizeObserver(entries => {
    for (const { target, contentRect } of entries) {
      target.width = Math.max(1, Math.round(contentRect.width * devicePixelRatio));
      target.height = Math.max(1, Math.round(contentRect.height * devicePixelRatio));
    }
    redraw();
  });
  sizes.observe(wipeCanvas);
  grid.addEventListener('keydown', key);
  // no shortcut of the notebook while a hand is here
  root.addEventListener('keydown', event => event.stopPropagation());

  colours();
  buildControls();
  const classes = make('div', { class: 'classes' }, make('b', { text: 'Classes that ASH is given' }),
    make('p', { class: 'hint', text: 'ASH sees how likely each class is at each place. Switch a class off, and its '
      + 'probability is 0 there.' }), classBox,
    make('details', {}, make('summary', { text: 'count more or less, exchange two' }), groupOf('classes')));
  const side = make('div', { class: 'side' }, groupOf('pictures'), groupOf('settings'), groupOf('actions'), classes);
  const main = make('div', { class: 'main' }, tools, wipeBox, grid, hint, readout, point, sheet, code);
  root.append(make('div', { class: 'columns' }, side, main));
  chips();
  build();
  showPoint();
  showSheet();
  const tell = () => { status.textContent = model.get('message'); };
  tell();

  let due = false; // several traits change in one message: build once, when all have
  const later = () => {
    if (due) return;
    due = true;
    queueMicrotask(() => { due = false; build(); });
  };
  on('change:panels', later);
  for (const name of model.get('slots')) on(`change:${name}`, later);
  on('change:values', setValues);
  on('change:classes', () => { chips(); later(); });
  on('change:code', () => { code.value = model.get('code'); });
  on('change:message', tell);
  on('change:point', showPoint);
  on('change:sheet', showSheet);
  const thumbs = () => {
    Object.values(parts).forEach(p => p.redraw?.());
    setValues();
  };
  for (const name of ['thumbs', 'thumbs_image', 'thumbs_painting']) on(`change:${name}`, thumbs);
  return () => {
    stop();
    sizes.disconnect();
    Object.values(parts).forEach(p => p.stop?.());
    for (const [name, act] of listening) model.off(name, act);
  };
}

export default { render };
