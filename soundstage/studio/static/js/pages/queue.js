// The page Queue: what is made now, what waits, LoRAs that were trained, and what ended without a clip.

import { html, useState } from "../lib.js";
import { newestFirst, useStore } from "../store.js";
import { AssetPicture } from "../ui/media.js";
import { ago, stateWord } from "../words.js";
import { Actions, isOver, jobFacts, Outcome, previewPart, Progress, promptOf, Trained } from "./job.js";
import { More, useParts } from "./parts.js";

const ENDED = 10;

/** Return the jobs that have not ended, in the order in which they are made, as far as they are read. */
function useOpen() {
  const open = useStore((state) => [...state.jobs.values()].filter((job) => !isOver(job)));
  const [waits, others] = [open.filter((job) => job.state === "queued"), open.filter((job) => job.state !== "queued")];
  const list = useParts({ state: "queued", order: "asc" }, waits.length === 0);
  const read = new Set(list.ids);
  // The store holds the newest jobs: those behind the part that is read are shown when it has come to them.
  const reached = list.hasMore ? waits.filter((job) => read.has(job.id)) : waits;
  const inOrder = (one, other) => (one.position ?? -1) - (other.position ?? -1) || one.created_at - other.created_at;
  return [[...others, ...reached].sort(inOrder), list];
}

export function Queue() {
  const [open, list] = useOpen();
  const ended = useStore((state) => newestFirst([...state.jobs.values()].filter((job) => ["failed", "cancelled"].includes(job.state))));
  const trained = useStore((state) => newestFirst([...state.jobs.values()].filter((job) => job.kind === "train" && job.state === "succeeded")));
  const [shown, setShown] = useState(ENDED);
  return html`<section class="page narrow">
    <h1>Queue</h1>
    ${open.length === 0 && html`<div class="empty"><p>Nothing waits.</p><a class="button primary" href="#/make">Make a clip</a></div>`}
    <ol class="job-list">${open.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ol>
    <${More} list=${list} />
    ${trained.length > 0 && html`<h2>Trained LoRAs</h2><ol class="job-list">${trained.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ol>`}
    ${ended.length > 0 && html`<h2>Ended without a clip</h2><ol class="job-list">${ended.slice(0, shown).map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ol>`}
    ${ended.length > shown && html`<div class="row center"><button type="button" class="button" onClick=${() => setShown(shown + ENDED)}>Show more of these</button></div>`}
  </section>`;
}

function Row({ job }) {
  return html`<li class=${`job ${job.state}`}>
    <div class="job-picture">${job.preview ? html`<${AssetPicture} asset=${job.preview} part=${previewPart(job.preview)} alt="" />` : html`<span>${job.state === "queued" ? (job.position ?? 0) + 1 : ""}</span>`}</div>
    <div class="job-words">
      <h3><a href=${`#/clip/${job.id}`}>${promptOf(job)}</a></h3>
      <p class="help">${stateWord(job.state)} · ${jobFacts(job)} · ${ago(job.created_at)}${job.attempt > 1 ? ` · attempt ${job.attempt}` : ""}</p>
      <${Progress} job=${job} /><${Outcome} job=${job} /><${Trained} job=${job} /><${Actions} job=${job} />
    </div>
  </li>`;
}
