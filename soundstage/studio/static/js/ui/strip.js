// A clip's frames over its sound, and stretches of time marked on them by pointer or keys.

import { mediaAddress } from "../api.js";
import { html, useEffect, useRef, useState } from "../lib.js";
import { clock } from "../words.js";
import { AssetPicture } from "./media.js";

const FRAMES = 16;
const MIN_S = 0.05;
const round = (value) => Math.round(value * 100) / 100;

function useWaveform(asset) {
  const [told, setTold] = useState(null);
  useEffect(() => {
    let live = true;
    setTold(null);
    if (asset.has_sound === false) return undefined;
    mediaAddress(asset.id, "waveform?peaks=300").then((address) => fetch(address))
      .then((answer) => (answer.ok ? answer.json() : null)).then((found) => live && setTold(found), () => {});
    return () => { live = false; };
  }, [asset.id]);
  return told;
}

/** Return the outline of a waveform as a path of 300 by 100. channels: lists of [lowest, highest]. */
function outline(channels) {
  const first = channels[0] ?? [];
  const at = (n) => (n / Math.max(1, first.length - 1)) * 300;
  const edge = (side) => first.map((_, n) => {
    const values = channels.map((channel) => channel[n]?.[side] ?? 0);
    const peak = side ? Math.max(...values) : Math.min(...values);
    return `${at(n).toFixed(1)},${(50 - peak * 48).toFixed(1)}`;
  });
  return first.length ? `M${edge(1).join("L")}L${edge(0).reverse().join("L")}Z` : "";
}

/** Frames and sound of a clip, with spans [{start_s, end_s}] that onChange gets anew. */
export function Strip({ asset, spans, onChange, time = null, onTime }) {
  const area = useRef(null);
  const told = useWaveform(asset);
  const length = asset.duration_s || told?.duration_s || 1;
  const [drawn, setDrawn] = useState(null);
  const timeAt = (event) => {
    const box = area.current.getBoundingClientRect();
    return round(Math.min(length, Math.max(0, ((event.clientX - box.left) / box.width) * length)));
  };

  function begin(event) {
    if (event.target.closest(".handle") || event.button !== 0) return;
    event.preventDefault();
    area.current.setPointerCapture(event.pointerId);
    setDrawn({ from: timeAt(event), to: timeAt(event) });
    onTime?.(timeAt(event));
  }
  const draw = (event) => drawn && setDrawn({ ...drawn, to: timeAt(event) });
  function finish() {
    if (!drawn) return;
    const [start_s, end_s] = [drawn.from, drawn.to].sort((one, other) => one - other);
    setDrawn(null);
    if (end_s - start_s >= MIN_S) onChange?.([...spans, { start_s, end_s }].slice(-100));
  }
  const shown = drawn ? [...spans, { start_s: Math.min(drawn.from, drawn.to), end_s: Math.max(drawn.from, drawn.to) }] : spans;
  return html`<div class="strip-frame">
    <div class="strip" ref=${area} onPointerDown=${begin} onPointerMove=${draw} onPointerUp=${finish} onPointerCancel=${finish}>
      <span class="strip-word">Reading the frames</span>
      ${asset.width ? html`<${AssetPicture} asset=${asset} part=${`strip?frames=${FRAMES}&height=72`} alt="Frames of the clip" class="frames" />` : null}
      ${told && html`<svg class="wave" viewBox="0 0 300 100" preserveAspectRatio="none" role="img" aria-label="Its sound"><path d=${outline(told.channels ?? [])} /></svg>`}
      ${shown.map((span, index) => html`<${Mark} key=${index} span=${span} length=${length} number=${index + 1} timeAt=${timeAt}
        onChange=${(next) => onChange(spans.map((one, n) => (n === index ? next : one)))}
        onRemove=${() => onChange(spans.filter((_, n) => n !== index))} />`)}
      ${time !== null && html`<span class="playhead" style=${{ left: `${(time / length) * 100}%` }}></span>`}
    </div>
    <div class="strip-times"><span>0:00.0</span><span>${clock(length)}</span></div>
  </div>`;
}

function Mark({ span, length, number, timeAt, onChange, onRemove }) {
  const place = { left: `${(span.start_s / length) * 100}%`, width: `${((span.end_s - span.start_s) / length) * 100}%` };
  const set = (side, value) => {
    const next = { ...span, [side]: round(Math.min(length, Math.max(0, value))) };
    if (next.end_s - next.start_s >= MIN_S) onChange(next);
  };
  return html`<div class="mark" style=${place}>
    ${["start_s", "end_s"].map((side) => html`<${Handle} key=${side} side=${side} value=${span[side]} length=${length} timeAt=${timeAt}
      label=${`${side === "start_s" ? "Start" : "End"} of part ${number}`} onChange=${(value) => set(side, value)} onRemove=${onRemove} />`)}
  </div>`;
}

const STEPS = { ArrowLeft: -0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 };

function Handle({ side, value, length, label, timeAt, onChange, onRemove }) {
  const press = (event) => {
    if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); onRemove(); return; }
    const by = STEPS[event.key];
    if (by === undefined) return;
    event.preventDefault();
    onChange(value + (event.shiftKey ? by / 10 : by));
  };
  const grab = (event) => { event.stopPropagation(); event.target.setPointerCapture(event.pointerId); };
  const move = (event) => event.target.hasPointerCapture(event.pointerId) && onChange(timeAt(event));
  return html`<span class=${`handle ${side}`} role="slider" tabindex="0" aria-label=${label} aria-valuemin="0" aria-valuemax=${length}
    aria-valuenow=${value} aria-valuetext=${`${value} seconds`} onKeyDown=${press} onPointerDown=${grab} onPointerMove=${move}></span>`;
}
