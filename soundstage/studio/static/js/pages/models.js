// The page Models: what is here, what could be pulled, and the LoRAs.

import { post, remove } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { jobsChanged, notice, refreshLists, tell, useStore } from "../store.js";
import { Confirm, Field } from "../ui/controls.js";
import { Drop, facts } from "../ui/files.js";
import { bytes, plain, title } from "../words.js";
import { isOver, Outcome, Progress } from "./job.js";

export function Models() {
  const { models, loras, me, jobs } = useStore((state) => state);
  const admin = me?.scopes?.includes("admin");
  useEffect(() => { if (me) refreshLists().catch(tell); }, [me]);
  const pulls = [...jobs.values()].filter((job) => job.kind === "pull");
  const done = pulls.filter(isOver).length;
  useEffect(() => { if (done) refreshLists().catch(() => {}); }, [done]);
  const here = models.filter((model) => model.here !== false);
  const elsewhere = models.filter((model) => model.here === false);
  return html`<section class="page narrow"><h1>Models</h1>
    <div class="model-list">${here.map((model) => html`<${Model} key=${model.name} model=${model} />`)}</div>
    ${elsewhere.length > 0 && html`<h2>Can be downloaded</h2><div class="model-list">${elsewhere.map((model) => html`<${Model} key=${model.name} model=${model}
      pull=${pulls.filter((job) => job.model === model.name).sort((one, other) => other.created_at - one.created_at)[0]} admin=${admin} />`)}</div>`}
    ${admin && elsewhere.length === 0 && html`<${PullByName} pulls=${pulls} />`}
    <h2>LoRAs</h2>
    ${loras.length === 0 && html`<p class="help">None yet. A LoRA is registered once, and every request may name it.</p>`}
    <ul class="lora-list">${loras.map((lora) => html`<${Lora} key=${lora.name} lora=${lora} admin=${admin} />`)}</ul>
    ${admin && html`<${AddLora} />`}
  </section>`;
}

const PLACED = ["id", "name", "object", "here", "default", "description", "kinds", "summary", "problem", "defaults", "asset", "added_at"];
const DEFAULTS = ["size", "fps", "steps", "max_duration_s"];

function shownFact(name, value) {
  if (/bytes/.test(name)) return bytes(value);
  if (name === "size" && Array.isArray(value)) return value.join("×");
  if (name.endsWith("_s")) return `${value} s`;
  return Array.isArray(value) ? value.join(", ") : String(value);
}

function Facts({ of, without }) {
  const rows = Object.entries(of).filter(([name, value]) => !without.includes(name) && value !== null && typeof value !== "boolean"
    && (typeof value !== "object" || (Array.isArray(value) && value.length && value.every((one) => typeof one !== "object"))));
  return rows.length > 0 && html`<dl class="settings">${rows.map(([name, value]) => html`<div key=${name}><dt>${title(name)}</dt><dd>${shownFact(name, value)}</dd></div>`)}</dl>`;
}

function Model({ model, pull, admin }) {
  const start = () => post("/models/pull", { model: model.name }).then((job) => { jobsChanged(job); }, tell);
  return html`<article class="model">
    <header><h3>${model.name}</h3>${model.default && html`<span class="badge">default</span>`}
      ${model.here === false ? html`<span class="grow-1"></span>${admin && (!pull || isOver(pull)) && html`<button type="button" class="button" onClick=${start}>Download</button>`}`
        : html`<span class="badge good">here</span>`}</header>
    <p>${plain(model.description || model.summary)}</p>
    ${model.problem && html`<p class="problem">${model.problem}</p>`}
    <${Facts} of=${{ ...model, ...Object.fromEntries(DEFAULTS.map((name) => [name, model.defaults?.[name] ?? null])) }} without=${PLACED} />
    ${pull && html`<${Progress} job=${pull} /><${Outcome} job=${pull} />`}
  </article>`;
}

function PullByName({ pulls }) {
  const [name, setName] = useState("");
  const start = (event) => {
    event.preventDefault();
    post("/models/pull", { model: name.trim() }).then((job) => { jobsChanged(job); setName(""); }, tell);
  };
  return html`<h2>Download a model</h2><form class="item" onSubmit=${start}>
    <${Field} label="Name" help="A published model, by its name in soundstage models list.">
      ${(props) => html`<div class="row"><input type="text" required value=${name} onInput=${(event) => setName(event.target.value)} ...${props} />
        <button type="submit" class="button">Download</button></div>`}<//>
    ${pulls.map((job) => html`<div key=${job.id}><strong>${job.model}</strong><${Progress} job=${job} /><${Outcome} job=${job} /></div>`)}
  </form>`;
}

function Lora({ lora, admin }) {
  const [asking, setAsking] = useState(false);
  const drop = () => remove(`/loras/${encodeURIComponent(lora.name)}`).then(refreshLists).catch(tell);
  return html`<li class="model"><header><h3>${lora.name}</h3><span class="help grow-1">${lora.asset ? facts(lora.asset) : ""}</span>
      ${admin && html`<button type="button" class="link" onClick=${() => setAsking(true)}>Remove</button>`}</header>
    <${Facts} of=${lora.report ?? lora} without=${PLACED} />
    ${asking && html`<${Confirm} title=${`Remove ${lora.name}?`} text="Requests can no longer name it. Clips that were made with it stay." verb="Remove" onYes=${drop} onClose=${() => setAsking(false)} />`}
  </li>`;
}

function AddLora() {
  const [name, setName] = useState("");
  const take = async (asset) => {
    const word = (name.trim() || (asset.name || "lora").replace(/\.safetensors$/i, "")).replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 64);
    try {
      await post("/loras", { name: word, asset: asset.id });
      await refreshLists();
      setName("");
      notice(`${word} can now be used in requests.`);
    } catch (error) { tell(error); }
  };
  return html`<div class="item"><${Field} label="Name" help="Letters, digits, dots and dashes. Left out, the name of the file.">
      ${(props) => html`<input type="text" value=${name} maxlength="64" onInput=${(event) => setName(event.target.value)} ...${props} />`}<//>
    <${Drop} label="Drop or choose a LoRA file" hint=".safetensors" kind="lora" purpose="lora" take=${take} /></div>`;
}
