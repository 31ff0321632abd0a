// The page System: what `soundstage doctor` finds on the server, in words.

import { get } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { useStore } from "../store.js";
import { bytes, gigabytes, seconds } from "../words.js";

export function System() {
  const me = useStore((state) => state.me);
  const [told, setTold] = useState({});
  useEffect(() => {
    if (!me) return undefined;
    let live = true;
    const keep = (part) => live && setTold((before) => ({ ...before, ...part }));
    get("/system").then((report) => keep({ report, fault: null }), (error) => keep({ fault: error.message }));
    get("/workers").then((list) => keep({ workers: list.data }), () => {});
    return () => { live = false; };
  }, [me]);
  const { report, workers, fault } = told;
  return html`<section class="page narrow"><h1>System</h1>
    ${fault && html`<p class="problem">${fault}</p>`}
    ${!report && !fault && html`<p class="help">Looking at the machine.</p>`}
    ${report && html`<${Report} report=${report} />`}
    ${workers && html`<${Workers} workers=${workers} />`}
  </section>`;
}

function Report({ report }) {
  const onDevice = report.kind === "cuda";
  return html`<p class="lead">Clips are made on ${onDevice ? html`<strong>${report.device}</strong>, with ${bytes(report.device_bytes)} free` : html`<strong>this machine's processor</strong>`}.
      There ${onDevice ? "are" : "is"} ${bytes(report.host_bytes)} of memory and ${bytes(report.disk_bytes)} of disk free.</p>
    ${report.advice.length > 0 && html`<h2>What to change</h2><ul class="plain">${report.advice.map((sentence) => html`<li>${sentence}</li>`)}</ul>`}
    <h2>What a clip takes</h2><p class="help">Worked out, not measured: the most memory at once, and the time.</p>
    ${[...new Set(report.needs.map((need) => need.model))].map((model) => html`<${Needs} key=${model} model=${model} needs=${report.needs.filter((need) => need.model === model)} kind=${report.kind} />`)}
    <h2>Tools</h2><dl class="settings">
      ${[["Formats", report.dtypes], ["Codecs", report.codecs]].map(([name, list]) => html`<div key=${name}><dt>${name}</dt><dd>${list.map((one) => html`<span class=${`badge ${one.works ? "good" : "bad"}`} title=${one.detail}>${one.name}${one.works ? "" : " missing"}</span> `)}</dd></div>`)}
      <div><dt>Versions</dt><dd>${Object.entries(report.system).map(([name, version]) => `${name} ${version}`).join(", ")}</dd></div></dl>`;
}

function Needs({ model, needs, kind }) {
  const columns = [...new Set(needs.map((need) => need.weights))];
  const rows = [...new Set(needs.map((need) => `${need.recipe} ${need.size}`))];
  const refused = [...new Set(needs.filter((need) => need.refused).map((need) => `${need.recipe}: ${need.sentence}`))];
  return html`<div class="table-frame" tabindex="0" role="region" aria-label=${`What clips of ${model} take`}><table><caption>${model}</caption>
      <thead><tr><th scope="col">Recipe</th><th scope="col">Size</th>${columns.map((column) => html`<th scope="col">${column}</th>`)}</tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row}><th scope="row">${row.split(" ")[0]}</th><td>${row.split(" ")[1].replaceAll("x", "×")}</td>
        ${columns.map((column) => html`<${Cell} kind=${kind} need=${needs.find((need) => need.weights === column && `${need.recipe} ${need.size}` === row)} />`)}</tr>`)}</tbody></table></div>
    ${refused.map((sentence) => html`<p class="help">${sentence}</p>`)}`;
}

function Cell({ need, kind }) {
  if (!need) return html`<td></td>`;
  if (need.policy === null) return html`<td class="no">${need.needs_input ? "needs an input" : need.refused ? "refused" : "does not fit"}</td>`;
  const peak = kind === "cuda" ? need.device_bytes : need.host_bytes;
  return html`<td title=${`${need.storage}: ${need.policy}. ${need.sentence}`}>${gigabytes(peak / 1e9)}, ${seconds(need.seconds)}</td>`;
}

function Workers({ workers }) {
  return html`<h2>Workers</h2>${workers.length === 0 && html`<p class="help">No worker is there; jobs wait until one is.</p>`}
    <ul class="plain">${workers.map((worker) => html`<li key=${worker.id}><span class=${`badge ${worker.state === "gone" ? "bad" : "good"}`}>${worker.state}</span> ${worker.name} on ${worker.device}${worker.loaded ? `, ${worker.loaded} is loaded` : ""}</li>`)}</ul>`;
}
