// The page Queue: what is made now, what waits, and what ended without a clip.

import { html } from "../lib.js";
import { newestFirst, useStore } from "../store.js";
import { AssetPicture } from "../ui/media.js";
import { ago, stateWord } from "../words.js";
import { Actions, isOver, jobFacts, Outcome, previewPart, Progress, promptOf } from "./job.js";

const ENDED = 10;

export function Queue() {
  const jobs = useStore((state) => [...state.jobs.values()]);
  const open = jobs.filter((job) => !isOver(job)).sort((one, other) => (one.position ?? -1) - (other.position ?? -1) || one.created_at - other.created_at);
  const ended = newestFirst(jobs.filter((job) => ["failed", "cancelled"].includes(job.state))).slice(0, ENDED);
  return html`<section class="page narrow">
    <h1>Queue</h1>
    ${open.length === 0 && html`<div class="empty"><p>Nothing waits.</p><a class="button primary" href="#/make">Make a clip</a></div>`}
    <ol class="job-list">${open.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ol>
    ${ended.length > 0 && html`<h2>Ended without a clip</h2><ol class="job-list">${ended.map((job) => html`<${Row} key=${job.id} job=${job} />`)}</ol>`}
  </section>`;
}

function Row({ job }) {
  return html`<li class=${`job ${job.state}`}>
    <div class="job-picture">${job.preview ? html`<${AssetPicture} asset=${job.preview} part=${previewPart(job.preview)} alt="" />` : html`<span>${job.state === "queued" ? (job.position ?? 0) + 1 : ""}</span>`}</div>
    <div class="job-words">
      <h3><a href=${`#/clip/${job.id}`}>${promptOf(job)}</a></h3>
      <p class="help">${stateWord(job.state)} · ${jobFacts(job)} · ${ago(job.created_at)}${job.attempt > 1 ? ` · attempt ${job.attempt}` : ""}</p>
      <${Progress} job=${job} /><${Outcome} job=${job} /><${Actions} job=${job} />
    </div>
  </li>`;
}
