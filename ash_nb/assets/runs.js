// The run table: sorts in place, tells the kernel which runs are chosen or opened, and asks it to look again while
// the table is on screen. A hidden tab, or a table that is scrolled away, asks for nothing.

const EVERY = 5000; // milliseconds between two looks

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function sparkline(losses, colour) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const [w, h] = [84, 22];
  svg.setAttribute('viewBox', `0 0 ${w} ${h}`);
  svg.setAttribute('width', w);
  svg.setAttribute('height', h);
  svg.setAttribute('role', 'img');
  const title = document.createElementNS('http://www.w3.org/2000/svg', 'title');
  const last = losses[losses.length - 1];
  const said = () => `segmentation loss from ${losses[0].toPrecision(3)} to ${last.toPrecision(3)}`;
  title.textContent = losses.length ? said() : 'no loss yet';
  svg.append(title);
  const high = Math.max(...losses), low = Math.min(...losses);
  const place = (v, k) => {
    const x = 2 + (k * (w - 4)) / Math.max(1, losses.length - 1);
    const y = h - 2 - ((v - low) * (h - 4)) / (high - low || 1);
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
  line.setAttribute('points', losses.map(place).join(' '));
  line.setAttribute('fill', 'none');
  line.setAttribute('stroke', colour);
  line.setAttribute('stroke-width', 1.6);
  svg.append(line);
  return svg;
}

function columns(model) {
  const told = (row, key) => row[key];
  const fixed = [
    { name: 'run', of: (r) => told(r, 'run') },
    { name: 'method', of: (r) => told(r, 'method') },
    { name: 'seed', of: (r) => told(r, 'seed'), number: true },
    { name: 'step', of: (r) => r.step / (r.steps || 1), number: true },
    { name: 'loss', of: (r) => r.losses[r.losses.length - 1], number: true },
  ];
  const scores = model.get('targets').map((target) => ({
    name: target, target, of: (r) => (r.scores[target] || {}).miou, number: true,
  }));
  const changed = model.get('rows').some((r) => r.changed) ? [{ name: 'changed', of: (r) => told(r, 'changed') }] : [];
  return [...fixed, ...scores, ...changed];
}

function scoreCell(cell, score) {
  if (!score) return cell.append(make('span', '–', { class: 'ash-none' }));
  cell.append(make('span', score.text, { class: 'ash-score' }));
  if (score.difference) cell.append(make('span', score.difference, { class: `ash-difference ${score.verdict}` }));
}

function render({ model, el }) {
  const sort = { by: null, down: true };
  const root = make('div', undefined, { class: 'ash-runs' });
  const bar = make('div', undefined, { class: 'ash-bar' });
  const again = make('button', 'look again', { type: 'button' });
  const status = make('span', '', { role: 'status', class: 'ash-status' });
  const region = { tabindex: '0', role: 'region', 'aria-label': 'table of runs' };
  const scroll = make('div', undefined, { class: 'ash-scroller', ...region });
  const note = make('p', '', { class: 'ash-note' });
  again.addEventListener('click', () => model.send({ do: 'look' }));
  bar.append(again, status);
  root.append(bar, scroll, note);
  el.append(root);

  function head(list) {
    const row = make('tr');
    row.append(make('th', 'curve', { scope: 'col' }));
    for (const c of list) {
      const th = make('th', undefined, { scope: 'col', class: c.number ? 'ash-number' : '' });
      const here = sort.by === c.name;
      th.setAttribute('aria-sort', here ? (sort.down ? 'descending' : 'ascending') : 'none');
      const button = make('button', c.name + (here ? (sort.down ? ' ↓' : ' ↑') : ''), { type: 'button' });
      button.addEventListener('click', () => {
        sort.down = here ? !sort.down : true;
        sort.by = c.name;
        draw(c.name);
      });
      th.append(button);
      row.append(th);
    }
    return row;
  }

  function body(r, list) {
    const opened = model.get('opened') === r.run;
    const row = make('tr', undefined, { class: `${opened ? 'ash-opened' : ''} ${r.mean ? 'ash-mean' : ''}` });
    const pick = make('td');
    if (!r.mean) {
      const box = make('input', undefined, { type: 'checkbox', 'aria-label': `curves of ${r.run}` });
      box.checked = model.get('chosen').includes(r.run);
      box.addEventListener('change', () => {
        const others = model.get('chosen').filter((name) => name !== r.run);
        model.set('chosen', box.checked ? [...others, r.run] : others);
        model.save_changes();
      });
      pick.append(box);
    }
    row.append(pick);
    for (const c of list) row.append(cellOf(c, r, opened));
    return row;
  }

  function cellOf(c, r, opened) {
    const cell = make('td', undefined, { class: c.number ? 'ash-number' : '' });
    if (c.target) scoreCell(cell, r.scores[c.target]);
    else if (c.name === 'run' && !r.mean) {
      const look = { type: 'button', class: 'ash-open', 'aria-expanded': String(opened), 'data-run': r.run };
      const open = make('button', r.run, look);
      open.addEventListener('click', () => {
        model.set('opened', opened ? '' : r.run);
        model.save_changes();
      });
      cell.append(open);
    } else if (c.name === 'method') {
      cell.append(make('span', '', { class: 'ash-dot', style: `background: ${r.colour}` }), r.method);
    } else if (c.name === 'step') cell.textContent = r.state;
    else if (c.name === 'loss') { if (r.losses.length) cell.append(sparkline(r.losses, r.colour)); }
    else cell.textContent = r[c.name];
    return cell;
  }

  function sorted(list) {
    const rows = [...model.get('rows')];
    const by = list.find((c) => c.name === sort.by);
    if (!by) return rows;
    const missing = (v) => v === undefined || v === null || v === '';
    return rows.sort((a, b) => {
      const [x, y] = [by.of(a), by.of(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const order = typeof x === 'number' ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      return sort.down ? -order : order;
    });
  }

  function draw(focused) {
    const active = root.ownerDocument.activeElement;
    const held = root.contains(active) ? active.dataset.run : undefined;
    const list = columns(model);
    const table = make('table');
    const [thead, tbody] = [make('thead'), make('tbody')];
    thead.append(head(list));
    tbody.append(...sorted(list).map((r) => body(r, list)));
    table.append(thead, tbody);
    scroll.replaceChildren(table);
    note.textContent = model.get('note');
    status.textContent = model.get('status');
    const column = list.findIndex((c) => c.name === focused);
    if (column >= 0) thead.querySelectorAll('button')[column].focus();
    else if (held) tbody.querySelector(`[data-run="${CSS.escape(held)}"]`)?.focus();
  }

  const redraw = () => draw();
  const watched = ['rows', 'targets', 'opened', 'note', 'status'];
  for (const name of watched) model.on(`change:${name}`, redraw);
  draw();

  let seen = false;
  const watch = new IntersectionObserver((entries) => { seen = entries[entries.length - 1].isIntersecting; });
  watch.observe(root);
  const clock = setInterval(() => {
    if (seen && document.visibilityState === 'visible') model.send({ do: 'look' });
  }, EVERY);
  return () => {
    clearInterval(clock);
    watch.disconnect();
    for (const name of watched) model.off(`change:${name}`, redraw);
  };
}

export default { render };
