// The side of Make that shows what is made: one clip, or several seeds side by side, and the latest below.

import { html, useEffect } from "../lib.js";
import { newestFirst, useStore } from "../store.js";
import { stateWord } from "../words.js";
import { Actions, clipOf, isOver, JobPicture, jobFacts, Outcome, Progress, promptOf } from "./job.js";
import { LiveThumbnail } from "../ui/media.js";

const LATEST = 8;

export function Stage({ ids, onShow }) {
  const { jobs, loaded } = useStore((state) => state);
  const latest = newestFirst([...jobs.values()].filter((job) => job.kind === "generate"));
  const shown = ids?.map((id) => jobs.get(id)).filter(Boolean) ?? [];
  const [first] = latest;
  useEffect(() => { if (!ids && first && !isOver(first)) onShow([first.id]); }, [loaded]);
  const own = shown.length ? shown : first ? [first] : [];
  return html`<section class="stage" aria-label="What is made">
    ${own.length === 0 && html`<${Empty} loaded=${loaded} />`}
    ${own.length === 1 && html`<${Single} job=${own[0]} fresh=${Boolean(ids)} />`}
    ${own.length > 1 && html`<${Several} jobs=${own} onShow=${onShow} />`}
    ${latest.length > 1 && html`<${Latest} jobs=${latest.slice(0, LATEST)} shown=${own.map((job) => job.id)} onShow=${onShow} />`}
  </section>`;
}

function Empty({ loaded }) {
  return html`<div class="empty-stage"><div class="empty-frame" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>
    <p>${loaded ? "Your clip appears here, and you can watch it come into being." : ""}</p></div>`;
}

function Single({ job, fresh }) {
  return html`<article class="on-stage">
    <div class="screen"><${JobPicture} job=${job} autoplay=${fresh && isOver(job)} key=${job.id} /></div>
    <${Progress} job=${job} />
    <h2 class="clip-title">${promptOf(job)}</h2>
    <p class="help">${jobFacts(job)}</p>
    <${Outcome} job=${job} /><${Actions} job=${job} />
  </article>`;
}

function Several({ jobs, onShow }) {
  return html`<article class="on-stage"><div class="variations">${jobs.map((job) => html`<div class="variation" key=${job.id}>
      <div class="screen"><${JobPicture} job=${job} /></div><${Progress} job=${job} /><${Outcome} job=${job} />
      <div class="row"><span class="help grow-1">seed ${job.seed}</span><button type="button" class="link" onClick=${() => onShow([job.id])}>Show alone</button></div>
    </div>`)}</div></article>`;
}

function Latest({ jobs, shown, onShow }) {
  return html`<nav class="latest" aria-label="Latest clips">${jobs.map((job) => html`<button type="button" key=${job.id}
    class="latest-one" aria-current=${shown.includes(job.id) ? "true" : undefined} title=${promptOf(job)} aria-label=${`Show: ${promptOf(job)}, ${stateWord(job.state)}`}
    onClick=${() => onShow([job.id])}>
    ${clipOf(job) ? html`<${LiveThumbnail} asset=${clipOf(job)} poster=${job.result.poster} label="" />` : html`<span class="latest-word">${stateWord(job.state)}</span>`}
  </button>`)}</nav>`;
}
