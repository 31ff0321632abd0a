// A part of the form: the clip to change, the parts of its time, a mask painted on it, and how far it is extended.

import { setField, withField } from "../draft.js";
import { html, useState } from "../lib.js";
import { useAsset } from "../store.js";
import { Chips, Field, NumberInput, Section, Slider } from "../ui/controls.js";
import { Drop, FileChip } from "../ui/files.js";
import { MaskPainter } from "../ui/mask.js";
import { Player } from "../ui/media.js";
import { Strip } from "../ui/strip.js";
import { count, number, share } from "../words.js";
import { MoreFields, Problems } from "./inputs.js";

const PLACED = ["video", "regenerate", "denoise", "extend_before_s", "extend_after_s", "modalities", "mask"];
const CHANGES = [["both", "Picture and sound"], ["video", "Picture"], ["audio", "Sound"]];

function summaryOf(source) {
  if (!source) return "none";
  const words = [];
  const spans = [source.regenerate ?? []].flat();
  if (spans.length) words.push(`${count(spans.length, "part")} made again`);
  if (source.extend_before_s) words.push(`${number(source.extend_before_s)} s before`);
  if (source.extend_after_s) words.push(`${number(source.extend_after_s)} s after`);
  if (source.mask) words.push("in one place");
  if (source.denoise) words.push(`changed by ${share(source.denoise)}`);
  const made = [source.modalities ?? []].flat();
  if (made.length === 1) words.push(made[0] === "video" ? "new picture" : "new sound");
  return words.join(", ") || "nothing marked yet";
}

export function SourceSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const { source } = draft.request;
  const problems = problemsOf("source");
  return html`<${Section} id="source" title="A clip to change" summary=${summaryOf(source)} open=${isOpen("source")} onToggle=${toggle("source")} problems=${problems.length}>
    ${source?.video ? html`<${Source} source=${source} schema=${schema} />`
      : html`<${Drop} label="Drop or choose a clip" kind="clip" hint="Make a part of it again, extend it, or change one place" take=${(asset) => setField("source", { ...source, video: `asset:${asset.id}` })} />`}
    <${Problems} of=${problems} />
  <//>`;
}

function Source({ source, schema }) {
  const asset = useAsset(source.video);
  const [time, setTime] = useState(null);
  const [painting, setPainting] = useState(false);
  const set = (name, value) => setField("source", withField(source, name, value));
  const spans = [source.regenerate ?? []].flat().filter((span) => typeof span === "object");
  const made = [source.modalities ?? ["video", "audio"]].flat();
  return html`<div class="item">
    <${FileChip} reference=${source.video} onRemove=${() => setField("source", undefined)} />
    ${asset && !asset.missing && html`
      <${Player} asset=${asset} label="The clip to change" class="small-player" onTimeUpdate=${(event) => setTime(event.target.currentTime)} />
      <${Strip} asset=${asset} spans=${spans} time=${time} onChange=${(next) => set("regenerate", next)} />
      <${Spans} spans=${spans} length=${asset.duration_s || 1} onChange=${(next) => set("regenerate", next)} />`}
    <${Chips} label="What is made again" value=${made.length === 2 ? "both" : made[0]} options=${CHANGES}
      onChange=${(word) => set("modalities", word === "both" ? undefined : [word])} />
    <div class="grid">
      <${Field} label="Add before it" unit="seconds">${(props) => html`<${NumberInput} value=${source.extend_before_s} min=${0} step=${0.5} placeholder="0" onChange=${(value) => set("extend_before_s", value || undefined)} ...${props} />`}<//>
      <${Field} label="Add after it" unit="seconds">${(props) => html`<${NumberInput} value=${source.extend_after_s} min=${0} step=${0.5} placeholder="0" onChange=${(value) => set("extend_after_s", value || undefined)} ...${props} />`}<//>
    </div>
    <${Slider} label="Change by" value=${source.denoise ?? 1} min=${0.05} onChange=${(value) => set("denoise", value === 1 ? undefined : value)} shown=${share} />
    ${source.mask ? html`<${FileChip} reference=${source.mask} onRemove=${() => set("mask", undefined)}><small>White is made again</small><//>`
      : html`<div class="row wrap">
          ${asset?.width && html`<button type="button" class="button" onClick=${() => setPainting(true)}>Paint where it changes</button>`}
          <${Drop} label="Or give a mask" kind="mask" purpose="mask" take=${(one) => set("mask", `asset:${one.id}`)} /></div>`}
    ${painting && html`<${MaskPainter} asset=${asset} time=${time ?? 0} take=${(reference) => set("mask", reference)} onClose=${() => setPainting(false)} />`}
    <${MoreFields} schema=${schema} name="Source" value=${source} onChange=${(value) => setField("source", value)} without=${PLACED} />
  </div>`;
}

/** The marked parts as numbers. */
function Spans({ spans, length, onChange }) {
  const set = (index, name, value) => onChange(spans.map((span, n) => (n === index ? { ...span, [name]: value ?? 0 } : span)));
  const add = () => onChange([...spans, { start_s: Math.round(length * 33) / 100, end_s: Math.round(length * 66) / 100 }]);
  return html`<div class="spans">
    ${spans.length === 0 && html`<p class="help">Drag over the frames to mark a part that is made again.</p>`}
    ${spans.map((span, index) => html`<div class="row" key=${index}>
      <label class="mini">From <${NumberInput} value=${span.start_s} min=${0} max=${length} step=${0.1} onChange=${(value) => set(index, "start_s", value)} /></label>
      <label class="mini">to <${NumberInput} value=${span.end_s} min=${0} step=${0.1} onChange=${(value) => set(index, "end_s", value)} /></label>
      <button type="button" class="link" onClick=${() => onChange(spans.filter((_, n) => n !== index))}>Remove</button></div>`)}
    <button type="button" class="link" onClick=${add}>Mark a part</button>
  </div>`;
}
