// The page at /docs: the OpenAPI document, readable.
function make(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function table(rows) {
  const node = make("table");
  for (const row of rows) {
    const line = node.insertRow();
    for (const cell of row) line.insertCell().textContent = cell;
  }
  return node;
}

function schemaName(content) {
  const schema = Object.values(content ?? {})[0]?.schema;
  return schema?.$ref?.split("/").pop() ?? schema?.type ?? "";
}

function fieldsOf(document, name) {
  const schema = document.components.schemas[name];
  if (!schema?.properties) return [];
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties).map(([field, value]) => [
    field + (required.has(field) ? " *" : ""),
    value.type ?? value.$ref?.split("/").pop() ?? (value.anyOf ?? []).map((each) => each.type ?? each.$ref?.split("/").pop()).join(" | "),
    value.description ?? "",
  ]);
}

function operation(document, method, path, found) {
  const node = make("details", undefined, "operation");
  const head = make("summary");
  head.append(make("span", method.toUpperCase(), "method"), make("code", path), make("span", found.summary));
  node.append(head, make("p", found.description));
  if (found.parameters?.length) {
    node.append(make("h4", "Parameters"), table(found.parameters.map((each) => [each.name, each.in, each.description ?? ""])));
  }
  const body = found.requestBody?.content["application/json"];
  if (body) {
    node.append(make("h4", "Body"), table(fieldsOf(document, schemaName(found.requestBody.content))));
    for (const [name, example] of Object.entries(body.examples ?? {})) {
      node.append(make("p", `Example: ${name}`), make("pre", JSON.stringify(example.value, null, 2)));
    }
  }
  const answers = Object.entries(found.responses).map(([status, each]) => [status, schemaName(each.content), each.description]);
  node.append(make("h4", "Answers"), table(answers));
  return node;
}

const response = await fetch("/api/anime/openapi.json");
const openapi = await response.json();
const main = document.getElementById("operations");
main.replaceChildren(make("p", openapi.info.description));
for (const tag of openapi.tags) {
  main.append(make("h3", `${tag.name}: ${tag.description}`));
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, found] of Object.entries(methods)) {
      if (found.tags[0] === tag.name) main.append(operation(openapi, method, path, found));
    }
  }
}
