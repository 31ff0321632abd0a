// Parts of the form: all other fields of a request, as the schema has them, and how the job is run.

import { isEmpty, setField, setRun } from "../draft.js";
import { html } from "../lib.js";
import { SchemaField } from "../schema.js";
import { Field, NumberInput, Section, Select, Switch } from "../ui/controls.js";

// Fields that have a place of their own elsewhere in the form.
const PLACED = ["prompt", "negative_prompt", "recipe", "size", "duration_s", "num_frames", "fps", "seed", "guides",
  "references", "source", "audio", "loras", "modalities"];
const GROUPS = [
  ["Steps", ["steps", "schedule", "sigmas", "sampler", "cache", "thin"]],
  ["Guidance", ["guidance", "video_guidance", "audio_guidance", "stg", "modality_guidance", "rescale", "video_scales", "audio_scales"]],
  ["Words", ["video_negative_prompt", "audio_negative_prompt", "lengths", "relay"]],
];

export function AdvancedSection({ draft, schema, problemsOf, isOpen, toggle }) {
  const names = Object.keys(schema.properties).filter((name) => !PLACED.includes(name));
  const grouped = GROUPS.flatMap(([, members]) => members);
  const groups = [...GROUPS, ["Long clips and limits", names.filter((name) => !grouped.includes(name))]];
  const given = names.filter((name) => !isEmpty(draft.request[name]));
  const problems = names.flatMap(problemsOf);
  return html`<${Section} id="advanced" title="Advanced" summary=${given.length ? given.map((name) => name.replaceAll("_", " ")).join(", ") : "all as the model has them"}
    open=${isOpen("advanced")} onToggle=${toggle("advanced")} problems=${problems.length}>
    ${groups.map(([title, members]) => html`<fieldset key=${title}><legend>${title}</legend><div class="grid">
      ${members.filter((name) => names.includes(name)).map((name) => html`<${SchemaField} key=${name} schema=${schema} name=${name}
        node=${schema.properties[name]} value=${draft.request[name]} problems=${problemsOf(name)} onChange=${(value) => setField(name, value)} />`)}
    </div></fieldset>`)}
  <//>`;
}

const FORMATS = ["mp4", "webm", "mov", "mkv", "gif", "webp", "png", "wav", "flac", "mp3", "m4a"];

/** How the job is run: the file's format, previews, its place in the queue. */
export function RunSection({ draft, isOpen, toggle }) {
  const { run } = draft;
  const previews = run.previews ?? true;
  const summary = [run.format ?? "mp4", previews ? "previews" : "no previews", run.priority && `${run.priority} priority`, run.label].filter(Boolean).join(" · ");
  return html`<${Section} id="run" title="File and queue" summary=${summary} open=${isOpen("run")} onToggle=${toggle("run")}>
    <div class="grid">
      <${Field} label="Format">${(props) => html`<${Select} value=${run.format} empty="mp4, or wav for sound alone" options=${FORMATS} onChange=${(value) => setRun("format", value)} ...${props} />`}<//>
      <${Field} label="Priority">${(props) => html`<${Select} value=${run.priority} empty="normal" options=${["high", "low"]} onChange=${(value) => setRun("priority", value)} ...${props} />`}<//>
      <${Field} label="Label" help="A word of your own, to find it by.">${(props) => html`<input type="text" maxlength="200" value=${run.label ?? ""} onInput=${(event) => setRun("label", event.target.value)} ...${props} />`}<//>
      <${Field} label="Webhook" help="The https address that is told when the job has ended.">${(props) => html`<input type="url" value=${run.webhook_url ?? ""} placeholder="https://" onChange=${(event) => setRun("webhook_url", event.target.value)} ...${props} />`}<//>
      ${previews && html`<${Field} label="A preview every" unit="steps">${(props) => html`<${NumberInput} value=${run.preview_every} min=${1} max=${1000} step=${1} placeholder="2" onChange=${(value) => setRun("preview_every", value)} ...${props} />`}<//>`}
    </div>
    <div class="stack">
      <${Switch} label="Show previews while it is made" value=${previews} onChange=${(on) => setRun("previews", on)} />
      <${Switch} label="Make a contact sheet too" value=${run.sheet} onChange=${(on) => setRun("sheet", on || undefined)} />
      <${Switch} label="Keep the latents too" help="A .safetensors file that other tools read." value=${run.keep_latents} onChange=${(on) => setRun("keep_latents", on || undefined)} />
    </div>
  <//>`;
}
