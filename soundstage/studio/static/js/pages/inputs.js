// Parts of the form: pictures at their times, sound, references, LoRAs.

import { setField, withField } from "../draft.js";
import { html } from "../lib.js";
import { RecordFields, recordOf } from "../schema.js";
import { useStore } from "../store.js";
import { Chips, Field, NumberInput, Section, Select, Slider } from "../ui/controls.js";
import { Drop, FileChip } from "../ui/files.js";
import { count, number, share } from "../words.js";

/** Return the setters of a list field: add, set and remove one. */
function listOf(name, value) {
  const list = value ?? [];
  return {
    list,
    add: (one) => setField(name, [...list, one]),
    set: (index, one) => setField(name, list.map((held, n) => (n === index ? one : held))),
    remove: (index) => setField(name, list.filter((_, n) => n !== index)),
  };
}

export function Problems({ of }) {
  return of.map((problem) => html`<p class="problem">${problem}</p>`);
}

/** The fields of a record that have no place of their own, folded away. */
export function MoreFields({ schema, name, value, onChange, without }) {
  if (!schema) return null;
  return html`<details class="more"><summary>More about it</summary>
    <${RecordFields} schema=${schema} record=${recordOf(schema, name)} value=${value} onChange=${onChange} without=${without} /></details>`;
}

const placeOf = (guide) => (guide.frame !== undefined ? "frame" : typeof guide.at === "number" ? "time" : guide.at ?? "start");
const PLACES = [["start", "First frame"], ["last", "Last frame"], ["time", "At a time"], ["before", "Just before"]];

function placeWords(guide) {
  const place = placeOf(guide);
  if (place === "time") return `at ${number(guide.at)} s`;
  return place === "frame" ? `frame ${guide.frame}` : place;
}

export function GuidesSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const { list, add, set, remove } = listOf("guides", draft.request.guides);
  const problems = problemsOf("guides");
  const summary = list.length ? list.map(placeWords).join(", ") : "none";
  const next = () => (list.length === 0 ? {} : list.length === 1 ? { at: "last" } : { at: 1 });
  return html`<${Section} id="guides" title="Pictures" summary=${summary} open=${isOpen("guides")} onToggle=${toggle("guides")} problems=${problems.length}>
    <p class="help">Pictures and clips that the result shows at given times.</p>
    ${list.map((guide, index) => html`<${GuideItem} key=${index} guide=${guide} schema=${schema} onChange=${(one) => set(index, one)} onRemove=${() => remove(index)} />`)}
    <${Drop} label="Drop or choose pictures" kind="picture" multiple take=${(asset) => add({ image: `asset:${asset.id}`, ...next() })} />
    <${Problems} of=${problems} />
  <//>`;
}

function GuideItem({ guide, schema, onChange, onRemove }) {
  const place = placeOf(guide);
  const put = (word) => {
    const { at, frame, ...rest } = guide;
    onChange(word === "start" ? rest : { ...rest, at: word === "time" ? 1 : word });
  };
  return html`<div class="item">
    <${FileChip} reference=${guide.image} onRemove=${onRemove} />
    <${Chips} label="When it is shown" value=${place} options=${PLACES} onChange=${put} />
    <div class="row wrap">
      ${place === "time" && html`<label class="mini">Second <${NumberInput} value=${guide.at} min=${0} step=${0.1} onChange=${(at) => onChange({ ...guide, at: at ?? 0 })} /></label>`}
      <${Slider} label="Strength" value=${guide.strength ?? 1} onChange=${(value) => onChange(withField(guide, "strength", value === 1 ? undefined : value))} shown=${share} />
    </div>
    <${MoreFields} schema=${schema} name="Guide" value=${guide} onChange=${onChange} without=${["image", "at", "strength"]} />
  </div>`;
}

const MODES = [["driving", "The clip follows it"], ["identity", "A voice to speak with"]];

export function SoundSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const { audio } = draft.request;
  const problems = problemsOf("audio");
  const made = [draft.request.modalities ?? ["video", "audio"]].flat();
  const summary = audio ? (audio.mode === "identity" ? "a voice" : "the clip follows it")
    : made.includes("audio") ? (made.includes("video") ? "made with the picture" : "sound alone") : "none is made";
  const what = made.length === 2 ? "both" : made[0];
  return html`<${Section} id="audio" title="Sound" summary=${summary} open=${isOpen("audio")} onToggle=${toggle("audio")} problems=${problems.length}>
    <${Chips} label="What to make" value=${what} options=${[["both", "Picture and sound"], ["video", "Picture alone"], ["audio", "Sound alone"]]}
      onChange=${(word) => setField("modalities", word === "both" ? undefined : [word])} />
    ${audio ? html`<div class="item">
        <${FileChip} reference=${audio.file} onRemove=${() => setField("audio", undefined)} />
        <${Chips} label="How it is used" value=${audio.mode ?? "driving"} options=${MODES} onChange=${(mode) => setField("audio", withField(audio, "mode", mode === "driving" ? undefined : mode))} />
        <${MoreFields} schema=${schema} name="Audio" value=${audio} onChange=${(value) => setField("audio", value)} without=${["file", "mode"]} />
      </div>`
      : html`<${Drop} label="Drop or choose a sound" kind="sound" hint="The picture is made to it, or a voice speaks as in it" take=${(asset) => setField("audio", { file: `asset:${asset.id}` })} />`}
    <${Problems} of=${problems} />
  <//>`;
}

export function ReferencesSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const { list, add, set, remove } = listOf("references", draft.request.references);
  const problems = problemsOf("references");
  return html`<${Section} id="references" title="References" summary=${list.length ? count(list.length, "clip") : "none"} open=${isOpen("references")} onToggle=${toggle("references")} problems=${problems.length}>
    <p class="help">Clips that condition the result without being shown, as in-context LoRAs use them.</p>
    ${list.map((reference, index) => html`<div class="item" key=${index}>
      <${FileChip} reference=${reference.video} onRemove=${() => remove(index)} />
      <${Slider} label="Strength" value=${reference.strength ?? 1} onChange=${(value) => set(index, withField(reference, "strength", value === 1 ? undefined : value))} shown=${share} />
      <${MoreFields} schema=${schema} name="Reference" value=${reference} onChange=${(one) => set(index, one)} without=${["video", "strength"]} />
    </div>`)}
    <${Drop} label="Drop or choose clips" kind="clip" multiple take=${(asset) => add({ video: `asset:${asset.id}` })} />
    <${Problems} of=${problems} />
  <//>`;
}

export function LorasSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const { list, add, set, remove } = listOf("loras", draft.request.loras);
  const known = useStore((state) => state.loras);
  const problems = problemsOf("loras");
  const nameOf = (lora) => lora.path.replace(/^lora:/, "");
  const summary = list.length ? list.map((lora) => `${nameOf(lora)} ${number(lora.strength ?? 1)}`).join(", ") : "none";
  return html`<${Section} id="loras" title="LoRAs" summary=${summary} open=${isOpen("loras")} onToggle=${toggle("loras")} problems=${problems.length}>
    ${list.map((lora, index) => html`<div class="item" key=${index}>
      ${lora.path.startsWith("asset:") ? html`<${FileChip} reference=${lora.path} onRemove=${() => remove(index)} />`
        : html`<div class="row"><strong class="grow-1">${nameOf(lora)}</strong><button type="button" class="link" onClick=${() => remove(index)}>Remove</button></div>`}
      <${Slider} label="Strength" value=${lora.strength ?? 1} min=${-1} max=${2} onChange=${(value) => set(index, withField(lora, "strength", value === 1 ? undefined : value))} shown=${(value) => number(value)} />
      <${MoreFields} schema=${schema} name="Lora" value=${lora} onChange=${(one) => set(index, one)} without=${["path"]} />
    </div>`)}
    ${known.length > 0 && html`<${Field} label="Add one of the server's">
      ${(props) => html`<${Select} value="" empty="Choose a LoRA" options=${known.map((lora) => lora.name)} onChange=${(name) => name && add({ path: `lora:${name}` })} ...${props} />`}
    <//>`}
    <${Drop} label="Drop or choose a LoRA file" kind="lora" purpose="lora" hint=".safetensors" take=${(asset) => add({ path: `asset:${asset.id}` })} />
    <${Problems} of=${problems} />
  <//>`;
}
