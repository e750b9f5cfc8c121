// Panels that zoom and move together, and tell the pixel under the pointer.
// panels.html defines before this: panels, a list of [title, picture, whether it is a label map];
// classes, from 'red,green,blue' to the name of a class; panelWidth, of each panel in pixels of the page.

const closest = 24;                   // largest zoom
const step = 1.25;                    // zoom of one turn of the wheel
const view = { zoom: 1, x: 0, y: 0 }; // what all panels show: zoom, and the left upper corner in pixels of the picture
let shown = [];                       // the panels, when all pictures are there
let drag = null;                      // while the button is down: the point that was taken hold of

function between(low, value, high) {
  return Math.max(low, Math.min(high, value));
}

function keepInside() {
  const { width, height } = shown[0].picture;
  view.zoom = between(1, view.zoom, closest);
  view.x = between(0, view.x, width - width / view.zoom);
  view.y = between(0, view.y, height - height / view.zoom);
}

function draw() {
  keepInside();
  for (const { picture, canvas } of shown) {
    const width = picture.width / view.zoom;
    const height = picture.height / view.zoom;
    const context = canvas.getContext('2d');
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, view.x, view.y, width, height, 0, 0, canvas.width, canvas.height);
  }
}

// The point of the picture under the pointer, [x, y], fractions of pixels included.
function under(panel, event) {
  const { width, height } = shown[0].picture;
  const box = panel.canvas.getBoundingClientRect();
  return [
    view.x + (event.clientX - box.left) / box.width * width / view.zoom,
    view.y + (event.clientY - box.top) / box.height * height / view.zoom,
  ];
}

function tell(panel, event) {
  const [x, y] = under(panel, event).map(Math.floor);
  const told = shown.map(({ title, isLabelMap, pixels }) => {
    const colour = pixels.getImageData(x, y, 1, 1).data.slice(0, 3).join();
    return title + ': ' + (isLabelMap ? classes[colour] || 'not counted' : colour);
  });
  document.getElementById('readout').textContent = `(${x}, ${y})  ` + told.join('   ');
}

function zoom(panel, event) {
  event.preventDefault();
  const [x, y] = under(panel, event);
  const before = view.zoom;
  view.zoom = between(1, before * (event.deltaY < 0 ? step : 1 / step), closest);
  view.x = x - (x - view.x) * before / view.zoom; // what is under the pointer stays there
  view.y = y - (y - view.y) * before / view.zoom;
  draw();
}

function move(panel, event) {
  if (drag) {
    const [x, y] = under(panel, event);
    view.x -= x - drag.x;
    view.y -= y - drag.y;
    draw();
  }
  tell(panel, event);
}

function listen(panel) {
  panel.canvas.onwheel = event => zoom(panel, event);
  panel.canvas.onmousemove = event => move(panel, event);
  panel.canvas.onmousedown = event => {
    const [x, y] = under(panel, event);
    drag = { x, y };
  };
  panel.canvas.ondblclick = () => {
    view.zoom = 1;
    draw();
  };
}

// A canvas of the picture's own size, to read pixels from.
function pixelsOf(picture) {
  const canvas = document.createElement('canvas');
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context;
}

function build(title, picture, isLabelMap) {
  const figure = document.createElement('figure');
  const caption = document.createElement('figcaption');
  const canvas = document.createElement('canvas');
  caption.textContent = title;
  canvas.width = panelWidth;
  canvas.height = Math.round(panelWidth * picture.height / picture.width);
  figure.append(caption, canvas);
  return { title, isLabelMap, picture, canvas, figure, pixels: pixelsOf(picture) };
}

function load([title, source, isLabelMap]) {
  return new Promise(done => {
    const picture = new Image();
    picture.onload = () => done(build(title, picture, isLabelMap));
    picture.src = source;
  });
}

window.onmouseup = () => { drag = null; };

Promise.all(panels.map(load)).then(loaded => {
  shown = loaded;
  document.getElementById('panels').append(...shown.map(panel => panel.figure));
  shown.forEach(listen);
  draw();
});
