// node-soap, by the WSDL alone: rows of each course and the list of content, as JSON.
const soap = require("soap");
const [endpoint, token, ...ids] = process.argv.slice(2);
const credentials = { token };
(async () => {
  const client = await soap.createClientAsync(`${endpoint}?wsdl`);
  const rows = {};
  for (const id of ids) {
    const [answer] = await client.GetContentItemFinalStatusesAsync({ credentials, contentItemId: id });
    const statuses = (answer.statuses && answer.statuses.status) || [];
    rows[id] = statuses.map((one) => [one.userId, one.status, Number(one.progress)]);
  }
  const [answer] = await client.GetContentAsync({ credentials });
  const content = (answer.contentItem || []).map((one) => [one.contentItemId, one.title, one.type]);
  console.log(JSON.stringify({ rows, content }));
})();
