// The page Make: the form on one side, what is made on the other.

import { get, post } from "../api.js";
import { bodyOf, clearDraft, current, EXAMPLE, fill, onceChanged, restore, setField, setOpen, setRun, useDraft } from "../draft.js";
import { html, useEffect, useRef, useState } from "../lib.js";
import { dismiss, jobsChanged, notice, peek, tell, useStore } from "../store.js";
import { Select } from "../ui/controls.js";
import { send } from "../ui/files.js";
import { count } from "../words.js";
import { AdvancedSection, RunSection } from "./advanced.js";
import { GuidesSection, LorasSection, ReferencesSection, SoundSection } from "./inputs.js";
import { Price, usePlan } from "./price.js";
import { RecipeSection, ShapeSection } from "./shape.js";
import { SourceSection } from "./source.js";
import { Stage } from "./stage.js";

/** Queue the draft's job, once for each of `times` seeds. Returns the jobs. */
async function makeJobs(draft, times) {
  const first = draft.request.seed ?? Math.floor(Math.random() * 2 ** 31);
  const seeds = times === 1 ? [undefined] : Array.from({ length: times }, (_, n) => first + n);
  const made = [];
  for (const seed of seeds) {
    const job = await post("/jobs", bodyOf(draft, seed), { more: {} });
    jobsChanged(job);
    made.push(job);
  }
  return made;
}

export function Make() {
  const draft = useDraft();
  const { models, schema } = useStore((state) => state);
  const [busy, setBusy] = useState(false);
  const [shown, setShown] = useState(null); // ids of the jobs on the stage
  const { plan, problems, waiting } = usePlan(draft);
  const stage = useRef(null);
  const problemsOf = (name) => problems.filter((problem) => problem.field.split(/[.[]/)[0] === name).map((problem) => problem.message);

  async function make(times) {
    if (busy) return;
    setBusy(true);
    try {
      const jobs = await makeJobs(draft, times);
      setShown(jobs.map((job) => job.id));
      if (matchMedia("(max-width: 900px)").matches) stage.current?.scrollIntoView({ behavior: "smooth" });
    } catch (error) { tell(error); }
    setBusy(false);
  }
  useShortcut(() => make(1));
  const parts = { draft, schema, problemsOf, isOpen: (name) => draft.open === name, toggle: (name) => (on) => setOpen(on ? name : null) };
  return html`<div class="make">
    <${DropAnything} />
    <form class="form" noValidate onSubmit=${(event) => { event.preventDefault(); make(1); }} aria-label="What to make">
      <h1 class="quiet">Make</h1>
      <${Prompt} draft=${draft} problems=${problemsOf("prompt")} notes=${plan?.notes ?? []} />
      ${models.length > 1 && html`<${ModelChoice} draft=${draft} models=${models} />`}
      <${RecipeSection} ...${parts} /><${ShapeSection} ...${parts} plan=${plan} />
      <${GuidesSection} ...${parts} /><${SoundSection} ...${parts} /><${SourceSection} ...${parts} />
      <${ReferencesSection} ...${parts} /><${LorasSection} ...${parts} />
      ${schema && html`<${AdvancedSection} ...${parts} />`}<${RunSection} ...${parts} />
      <${Price} plan=${plan} problems=${problems} waiting=${waiting} busy=${busy} onMake=${make} empty=${!draft.request.prompt?.trim()} />
    </form>
    <div class="stage-place" ref=${stage}><${Stage} ids=${shown} onShow=${setShown} /></div>
  </div>`;
}

/** Say what has become of the form, until it is changed again: what it says is true, and Undo loses nothing, till then. */
export function tellOfForm(text, before) {
  const id = notice(text, { action: { label: "Undo", run: () => restore(before) } });
  onceChanged(() => dismiss(id));
}

function useShortcut(run) {
  const held = useRef(run);
  held.current = run;
  useEffect(() => {
    const press = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]")) {
        event.preventDefault();
        held.current();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

function Prompt({ draft, problems, notes }) {
  const [avoid, setAvoid] = useState(Boolean(draft.request.negative_prompt));
  const isExample = draft.request.prompt === EXAMPLE && Object.keys(draft.request).length === 1;
  const begin = () => { const before = current(); clearDraft(); tellOfForm("The form is empty.", before); };
  return html`<div class="prompt">
    <div class="prompt-head"><label for="prompt">Prompt</label>
      <button type="button" class="link" onClick=${begin}>Start over</button></div>
    <textarea id="prompt" class="grow" rows="3" placeholder="What the clip shows and sounds like" aria-describedby="prompt-told"
      value=${draft.request.prompt ?? ""} onInput=${(event) => setField("prompt", event.target.value)}></textarea>
    <div id="prompt-told">
      ${problems.map((problem) => html`<p class="problem">${problem}</p>`)}
      ${notes.map((note) => html`<p class="note">${note}</p>`)}
      ${isExample && html`<p class="help">An example to begin with: press Make, or write your own.</p>`}
    </div>
    ${avoid ? html`<label for="avoid" class="small-label">What to avoid, where guidance is on</label>
      <textarea id="avoid" class="grow" rows="2" value=${draft.request.negative_prompt ?? ""} placeholder="The model's own text"
        onInput=${(event) => setField("negative_prompt", event.target.value)}></textarea>`
      : html`<button type="button" class="link" onClick=${() => setAvoid(true)}>Say what to avoid</button>`}
  </div>`;
}

function ModelChoice({ draft, models }) {
  const here = models.filter((model) => model.here !== false);
  if (here.length < 2) return null;
  return html`<div class="field"><label for="model">Model</label>
    <${Select} id="model" value=${draft.run.model} empty=${`${here[0].name}, the server's first`} options=${here.slice(1).map((model) => model.name)}
      onChange=${(value) => setRun("model", value)} /></div>`;
}

/** Take a file that is dropped anywhere on the page. */
function DropAnything() {
  const [over, setOver] = useState(false);
  useEffect(() => {
    let leaving = null;
    const hold = (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      setOver(true);
      clearTimeout(leaving);
      leaving = setTimeout(() => setOver(false), 400);
    };
    const drop = (event) => { event.preventDefault(); setOver(false); [...event.dataTransfer.files].forEach(takeFile); };
    addEventListener("dragover", hold);
    addEventListener("drop", drop);
    return () => { removeEventListener("dragover", hold); removeEventListener("drop", drop); };
  }, []);
  return over && html`<div class="drop-veil" aria-hidden="true"><p>Drop a file made by Soundstage to fill the form from it,<br />or a picture, clip or sound to use it</p></div>`;
}

/** Fill the form from a file made by Soundstage, or use it as what it is. */
export async function takeFile(file) {
  const asset = await send(file, "input");
  if (!asset) return;
  const before = current();
  const told = await get(`/assets/${asset.id}/metadata`).catch(() => null);
  if (told?.request) {
    const lost = fill(told.request);
    tellOfForm(`The form is filled from ${file.name}${lostWords(lost)}.`, before);
    return;
  }
  use(asset, file.name, before);
}

const lostWords = (lost) => (lost ? `; ${count(lost, "file")} of its request must be given again` : "");

function use(asset, name, before) {
  const reference = `asset:${asset.id}`;
  const [type] = asset.media_type.split("/");
  if (type === "image") setField("guides", [...(current().request.guides ?? []), { image: reference }]);
  else if (type === "audio") setField("audio", { file: reference });
  else setField("source", { video: reference });
  const [section, words] = { image: ["guides", "as a picture to show"], audio: ["audio", "as its sound"] }[type] ?? ["source", "as the clip to change"];
  setOpen(section);
  tellOfForm(`${name} is used ${words}.`, before);
}

/** Open Make with the settings of a job. */
export function reuse(job, { keepSeed = true, open = null } = {}) {
  const before = current();
  const lost = fill({ ...job.request, seed: job.seed }, { model: job.model === peek().models[0]?.name ? undefined : job.model, keepSeed, open });
  tellOfForm(`The form has the settings of that clip${lostWords(lost)}.`, before);
  location.hash = "#/make";
}
