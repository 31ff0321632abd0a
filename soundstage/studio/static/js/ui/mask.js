// Paint a mask on a frame of a clip: white is made again, black stays.

import { html, useEffect, useRef, useState } from "../lib.js";
import { Chips, Dialog, Slider } from "./controls.js";
import { send } from "./files.js";
import { useMedia } from "./media.js";

const STEP = 8; // pixels that an arrow key moves the brush

/** A dialog over a frame of the clip. take: called with the reference of the painted mask. */
export function MaskPainter({ asset, time, take, onClose }) {
  const [address] = useMedia(asset.id);
  const [size, setSize] = useState(Math.round((asset.height || 256) / 8));
  const [erase, setErase] = useState(false);
  const [busy, setBusy] = useState(false);
  const [marked, setMarked] = useState(false);
  const canvas = useRef(null);
  const painting = useBrush(canvas, { size, erase, onPaint: () => setMarked(true) });
  const [width, height] = [asset.width || 512, asset.height || 512];

  const whole = (paint) => {
    const context = canvas.current.getContext("2d");
    paint(context);
    setMarked(true);
  };
  const clear = () => { whole((context) => context.clearRect(0, 0, width, height)); setMarked(false); };
  const turn = () => whole((context) => {
    context.globalCompositeOperation = "xor";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  });
  async function keep() {
    setBusy(true);
    const sent = await send(await asFile(canvas.current), "mask");
    setBusy(false);
    if (sent) { take(`asset:${sent.id}`); onClose(); }
  }
  return html`<${Dialog} title="What is made again" onClose=${onClose} wide>
    <p class="help">Paint over what shall change. The rest stays as it is. With the keyboard: arrows move the brush, Space paints.</p>
    <div class="mask-stage" style=${{ aspectRatio: `${width} / ${height}` }}>
      ${address && (asset.media_type.startsWith("video/")
        ? html`<video src=${address} muted playsinline preload="auto" onLoadedMetadata=${(event) => { event.target.currentTime = time; }}></video>`
        : html`<img src=${address} alt="" />`)}
      <canvas ref=${canvas} width=${width} height=${height} tabindex="0" role="img" aria-label="The mask over the frame" ...${painting.handlers}></canvas>
      ${painting.spot && html`<span class="brush-spot" style=${{ left: `${(painting.spot.x / width) * 100}%`, top: `${(painting.spot.y / height) * 100}%`, width: `${(size / width) * 100}%` }}></span>`}
    </div>
    <div class="row wrap">
      <${Chips} label="Brush" value=${erase} options=${[[false, "Paint"], [true, "Erase"]]} onChange=${setErase} />
      <${Slider} label="Size" value=${size} min=${4} max=${Math.round(Math.max(width, height) / 2)} step=${1} onChange=${setSize} shown=${(value) => `${value} px`} />
      <button type="button" class="button" onClick=${turn}>Turn over</button>
      <button type="button" class="button" onClick=${clear}>Clear</button>
    </div>
    <div class="row end">
      <button type="button" class="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="button primary" disabled=${busy || !marked} onClick=${keep}>${busy ? "Sending" : "Use this mask"}</button>
    </div>
  <//>`;
}

function useBrush(canvas, { size, erase, onPaint }) {
  const last = useRef(null);
  const [spot, setSpot] = useState(null);
  const pointOf = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const { width, height } = canvas.current;
    return { x: ((event.clientX - box.left) / box.width) * width, y: ((event.clientY - box.top) / box.height) * height };
  };
  const line = (from, to) => {
    const context = canvas.current.getContext("2d");
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: size, strokeStyle: "#fff" });
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    context.globalCompositeOperation = "source-over";
    onPaint();
  };
  const arrows = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  const press = (event) => {
    const { width, height } = canvas.current;
    const here = spot ?? { x: width / 2, y: height / 2 };
    if (event.key === " ") { event.preventDefault(); setSpot(here); line(here, here); }
    const by = arrows[event.key];
    if (!by) return;
    event.preventDefault();
    setSpot({ x: Math.min(width, Math.max(0, here.x + by[0])), y: Math.min(height, Math.max(0, here.y + by[1])) });
  };
  const handlers = {
    onKeyDown: press,
    onPointerDown: (event) => { event.target.setPointerCapture(event.pointerId); last.current = pointOf(event); line(last.current, last.current); },
    onPointerMove: (event) => {
      const here = pointOf(event);
      setSpot(here);
      if (last.current) { line(last.current, here); last.current = here; }
    },
    onPointerUp: () => { last.current = null; },
    onPointerCancel: () => { last.current = null; },
  };
  useEffect(() => canvas.current?.focus(), []);
  return { handlers, spot };
}

async function asFile(painted) {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [painted.width, painted.height];
  const context = whole.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, whole.width, whole.height);
  context.drawImage(painted, 0, 0);
  const blob = await new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  return new File([blob], "mask.png", { type: "image/png" });
}
