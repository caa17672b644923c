"""Spheres shown: as crosses of a cube, as equirectangular pictures, and as a page that turns.

The page is one HTML file that needs no network: pictures are in it. It draws on a canvas, pixel by
pixel and without WebGL; it turns by mouse, by touch and with the arrow keys.
"""

import base64
import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from pgmdiff.graphs.cube import FACES
from pgmdiff.images import cube_to_equirectangular

__all__ = ["cross", "equirectangular", "page"]

NET = {"U": (0, 1), "L": (1, 0), "F": (1, 1), "R": (1, 2), "B": (1, 3), "D": (2, 1)}
"""Row and column of each face."""
HEIGHT = 128
GAP = 1


def cross(faces: Tensor) -> Tensor:
    """A cube map `[6, 3, n, n]` unfolded, on white: `[3, 3 n + 2, 4 n + 3]`."""
    n = faces.shape[-1] + GAP
    image = torch.ones(3, 3 * n - GAP, 4 * n - GAP)
    for face, (row, column) in NET.items():
        own = image[:, row * n : row * n + n - GAP, column * n : column * n + n - GAP]
        own[:] = faces[FACES.index(face)]
    return image


def equirectangular(faces: Tensor) -> Tensor:
    """The panorama `[3, 128, 256]` of a cube map, interpolated between pixels."""
    return cube_to_equirectangular(faces, HEIGHT)


def page(
    spheres: Mapping[str, Mapping[str, Tensor]], path: Path, title: str, about: str, first: str
) -> None:
    """Writes a page that shows cube maps `[6, 3, n, n]` from within.

    Args:
        spheres: what was asked for, to the method, to the cube map, with values in [-1, 1].
        path: the HTML file.
        title, about: what a stranger has to know, in one line and in a few.
        first: the method that is shown first.
    """
    from PIL import Image

    shown: dict[str, dict[str, str]] = {}
    for asked, methods in spheres.items():
        shown[asked] = {}
        for method, faces in methods.items():
            values = (equirectangular(faces).movedim(0, -1) + 1) * 127.5
            file = BytesIO()
            picture = Image.fromarray(values.round().clamp(0, 255).byte().numpy())
            picture.save(file, "JPEG", quality=82, subsampling=0, optimize=True)
            shown[asked][method] = base64.b64encode(file.getvalue()).decode()
    text = PAGE.replace("TITLE", title).replace("ABOUT", about).replace("FIRST", first)
    path.write_text(text.replace("SPHERES", json.dumps(shown, ensure_ascii=False)))


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: .7rem 0; }
label { display: flex; flex-wrap: wrap; align-items: center; gap: .2rem .5rem; }
select { font: inherit; min-height: 2.75rem; max-width: 100%; }
input { width: 1.3rem; height: 1.3rem; }
canvas { display: block; width: 100%; aspect-ratio: 16 / 10; border-radius: .4rem;
  touch-action: none; cursor: grab; background: #888; }
canvas:active { cursor: grabbing; }
canvas:focus-visible { outline: 3px solid #2f7fbd; outline-offset: 2px; }
p { margin: .6rem 0; }
@media (max-width: 40rem) { canvas { aspect-ratio: 4 / 5; } body { padding: .75rem; } }
</style>
</head>
<body>
<h1>TITLE</h1>
<p>ABOUT</p>
<form>
<label>What was asked for <select id="asked"></select></label>
<label>Picture <select id="method"></select></label>
<label><input type="checkbox" id="edges"> Show the edges of the cube</label>
</form>
<canvas id="view" tabindex="0" role="img" aria-describedby="help"
  aria-label="A sphere seen from its centre"></canvas>
<p id="help">Drag to turn, or use the arrow keys; + and - zoom, as does the wheel.
<span id="state" aria-live="polite"></span></p>
<script>
"use strict";
const spheres = SPHERES;
const pick = id => document.getElementById(id);
const canvas = pick("view"), asked = pick("asked"), method = pick("method"), edges = pick("edges");
const board = canvas.getContext("2d"), source = document.createElement("canvas");
const SHARE = .6;  // pixels computed for one of the page: spheres are coarser by far
let yaw = 0, pitch = 0, field = 1.75, pixels = null, waiting = false;

for (const name in spheres) asked.add(new Option(name));
function fill() {
  const before = method.value;
  method.replaceChildren(...Object.keys(spheres[asked.value]).map(name => new Option(name)));
  method.value = before in spheres[asked.value] ? before : "FIRST";
}
function load() {
  const next = new Image();
  next.onload = () => {
    source.width = next.width; source.height = next.height;
    const own = source.getContext("2d", {willReadFrequently: true});
    own.drawImage(next, 0, 0);
    pixels = own.getImageData(0, 0, next.width, next.height).data;
    draw();
  };
  next.src = "data:image/jpeg;base64," + spheres[asked.value][method.value];
}

function draw() {
  if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; paint(); }); }
}
function paint() {
  if (!pixels) return;
  const w = Math.round(canvas.clientWidth * SHARE), h = Math.round(canvas.clientHeight * SHARE);
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const wide = Math.tan(field / 2) * Math.min(1, w / h), high = wide * h / w;
  const degrees = x => Math.round(x * 180 / Math.PI);
  pick("state").textContent = `Looking ${(degrees(yaw) % 360 + 360) % 360}° to the right of ` +
    `the front and ${Math.abs(degrees(pitch))}° ${pitch < 0 ? "down" : "up"}.`;
  const out = board.createImageData(w, h), W = source.width, H = source.height;
  const cp = Math.cos(pitch), sp = Math.sin(pitch), cy = Math.cos(yaw), sy = Math.sin(yaw);
  for (let row = 0, to = 0; row < h; row++) for (let column = 0; column < w; column++, to += 4) {
    const a = (2 * (column + .5) / w - 1) * wide, b = (1 - 2 * (row + .5) / h) * high;
    const long = 1 / Math.hypot(a, b, 1), y = (cp * b + sp) * long, ahead = (cp - sp * b) * long;
    const x = cy * a * long + sy * ahead, z = cy * ahead - sy * a * long;
    const u = (.5 + Math.atan2(x, z) / (2 * Math.PI)) * W - .5;
    const v = Math.min(Math.max((.5 - Math.asin(y) / Math.PI) * H - .5, 0), H - 1.001);
    const i = Math.floor(u), j = Math.floor(v), f = u - i, g = v - j;
    const left = 4 * (j * W + (i + W) % W), right = 4 * (j * W + (i + 1) % W), under = 4 * W;
    for (let k = 0; k < 3; k++) out.data[to + k] =
      (1 - g) * ((1 - f) * pixels[left + k] + f * pixels[right + k]) +
      g * ((1 - f) * pixels[left + under + k] + f * pixels[right + under + k]);
    const p = Math.abs(x), q = Math.abs(y), r = Math.abs(z), most = Math.max(p, q, r);
    if (edges.checked && 2 * most + Math.min(p, q, r) - p - q - r < .006)
      out.data.set([255, 51, 51], to);
    out.data[to + 3] = 255;
  }
  board.putImageData(out, 0, 0);
}

function turn(right, up) {
  yaw += right; pitch = Math.min(Math.max(pitch + up, -Math.PI / 2), Math.PI / 2); draw();
}
function zoom(factor) { field = Math.min(Math.max(field * factor, .4), 2.3); draw(); }
const fingers = new Map();
canvas.addEventListener("pointerdown", e => {
  fingers.set(e.pointerId, [e.clientX, e.clientY]); canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointermove", e => {
  const last = fingers.get(e.pointerId);
  if (!last) return;
  const other = [...fingers].find(([id]) => id !== e.pointerId);
  const scale = field / Math.max(canvas.clientWidth, canvas.clientHeight);
  if (other) {
    const far = p => Math.hypot(p[0] - other[1][0], p[1] - other[1][1]);
    zoom((far(last) + 1) / (far([e.clientX, e.clientY]) + 1));
  } else turn((last[0] - e.clientX) * scale, (e.clientY - last[1]) * scale);
  fingers.set(e.pointerId, [e.clientX, e.clientY]);
});
for (const kind of ["pointerup", "pointercancel"])
  canvas.addEventListener(kind, e => fingers.delete(e.pointerId));
canvas.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(e.deltaY / 800)); },
  {passive: false});
canvas.addEventListener("keydown", e => {
  const across = {ArrowLeft: -.12, ArrowRight: .12}, up = {ArrowUp: .12, ArrowDown: -.12};
  if (e.key in across || e.key in up) turn(across[e.key] || 0, up[e.key] || 0);
  else if (e.key === "+" || e.key === "=") zoom(1 / 1.15);
  else if (e.key === "-") zoom(1.15);
  else return;
  e.preventDefault();
});
asked.addEventListener("change", () => { fill(); load(); });
method.addEventListener("change", load);
edges.addEventListener("change", draw);
addEventListener("resize", draw);
fill(); load();
</script>
</body>
</html>
"""
