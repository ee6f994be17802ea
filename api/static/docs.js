// Shows /openapi.json: each operation with its parameters, an example of its body and of its answer.
"use strict";

const METHODS = ["get", "post", "put", "delete"];
const place = (id) => document.getElementById(id);

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text; // never innerHTML: names come from users
  made.append(...children);
  return made;
}

function exampleOf(content) {
  const kind = Object.keys(content || {})[0];
  if (!kind) return null;
  const { example, examples } = content[kind];
  const shown = example ?? Object.values(examples || {})[0]?.value;
  if (shown === undefined) return element("p", kind);
  return element("pre", typeof shown === "string" ? shown : JSON.stringify(shown, null, 2));
}

function parametersOf(operation) {
  const rows = (operation.parameters || []).map((parameter) => {
    const { type, anyOf, enum: values, default: usual } = parameter.schema || {};
    const kind = values ? values.join(" | ") : type || (anyOf || []).map((one) => one.type).filter((t) => t !== "null").join(" | ");
    const said = [kind, parameter.required ? "required" : usual !== undefined && usual !== null ? `default ${usual}` : ""];
    const cells = [parameter.name, parameter.in, said.filter(Boolean).join(", "), parameter.description || ""];
    return element("tr", "", ...cells.map((cell, i) => element("td", "", i ? cell : element("code", cell))));
  });
  return rows.length ? element("table", "", ...rows) : "";
}

function show(path, method, operation) {
  const head = element("summary", "", element("b", method.toUpperCase()), element("code", path), element("span", operation.summary));
  const parts = [head, element("p", operation.description || ""), parametersOf(operation)];
  const body = exampleOf(operation.requestBody?.content);
  if (body) parts.push(element("h4", "Body"), body);
  const [status, answer] = Object.entries(operation.responses).find(([code]) => code.startsWith("2"));
  const example = exampleOf(answer.content);
  if (example) parts.push(element("h4", `Answer ${status}`), example);
  const made = element("details", "", ...parts);
  made.dataset.words = `${method} ${path} ${operation.summary}`.toLowerCase();
  return made;
}

function showAll(found) {
  const sections = new Map();
  for (const [path, operations] of Object.entries(found.paths)) {
    for (const method of METHODS.filter((one) => operations[one])) {
      const tag = operations[method].tags?.[0] || "other";
      if (!sections.has(tag)) sections.set(tag, element("section", "", element("h2", tag)));
      sections.get(tag).append(show(path, method, operations[method]));
    }
  }
  place("operations").replaceChildren(...sections.values());
  place("summary").textContent = found.info.summary;
  place("search").hidden = false;
}

place("open").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await fetch("/openapi.json", { headers: { authorization: `Bearer ${place("key").value.trim()}` } });
  const body = await answer.json();
  place("fault").textContent = answer.ok ? "" : body.error.message;
  if (answer.ok) showAll(body);
});

place("words").addEventListener("input", () => {
  const words = place("words").value.toLowerCase();
  for (const made of document.querySelectorAll("details")) made.hidden = !made.dataset.words.includes(words);
});
